"""The head's role on a node: to lead, to stand by for the head, to take over from it, or to hand over to another.

One subscription to the input subject serves all of these, so that no frame falls between two of them:

- *leading*: frames go to the head.
- *standing by*: frames go to the standby head, which drops each when its result is on the output subject.
- *taking over*: frames still go to the standby head until it is known which of them the head before will finish. A head
  that is alive is asked (it stops taking frames when it answers); one that is dead will finish none.
- *finishing*: no frames are taken any more; what is held is answered on its way, then the head is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import structlog

from broker import subjects
from broker.activation import Activation, Failure
from broker.control import FlowSettings
from broker.errors import BrokerError, WireError
from broker.port import Broker, Handler, Message, Subscription
from stages.deployment import Deployment
from stages.feed import Feed
from stages.fence import Confirm, Fence
from stages.handover import OtherHead, read_question
from stages.head import Head
from stages.head_counters import HeadCounters
from stages.identity import DIGEST_BYTES, digest, entries, entry, identify
from stages.ledger import Ledger
from stages.results import Provenance
from stages.settlement import SeenRoutes, Settlement
from stages.standby_head import StandbyHead, id_of
from stages.way import Send, Way

log = structlog.get_logger("understudy.head")

FLUSH_TIMEOUT_S = 1.0
QUEUE_TURNS = 3

MOST_MARKS = 4096

LONG_S = 0.25
"""A frame that waits at the standby head for so long may be answered: the head is asked. Servers of a cluster hear of a
new subscription one after the other, so that for a moment one hands on frames, and another no results; what they have
for each other is lost where their link is; and of a frame that is published again the result is not."""

LATE_S = 2.0
"""A frame that comes to a new head for so long may be one that the head before has taken. Who publishes one again does
so later."""

SHARED_S = 30.0
"""A head that has handed over has finished what it holds, or lost it, after so long."""

KNOWS_AFTER_S = 5.0
"""A standby head knows everything that is not answered once it has listened for so long. One that takes over sooner
says so, and publishers send again what they still hold."""


class Leadership:
    """`follow` says what this node's role is in an epoch."""

    def __init__(self, *, node: str, broker: Broker, executor: Executor, confirm: Confirm | None = None) -> None:
        """`confirm`: asked after a pause of this process, see `stages.fence`; None: nobody can say."""
        self._confirm = confirm
        self._node = node
        self._broker = broker
        self._executor = executor
        self._subscribed: dict[str, Subscription] = {}
        self._task: asyncio.Task[None] | None = None
        self._fence: Fence | None = None
        self._fence_task: asyncio.Task[None] | None = None
        self._keeping_up: asyncio.Task[None] | None = None
        self._standby: StandbyHead | None = None
        self._other = ""
        """The node of the head that this one stands by for."""
        self._seen = SeenRoutes()
        """On which frames may be that the other head has answered."""
        self._stands_by_since_s = math.inf
        self._pipeline = ""
        self._epoch = 0  # of the newest route that it leads on
        self._missed = False
        """Whether frames may have been published while this node was not connected."""
        self._flow: FlowSettings | None = None
        self._feed: Feed | None = None
        self._window = 0
        self.on_news: Callable[[], None] = lambda: None
        """Called when the head has put out the first answer of an epoch, or has finished what it held."""
        self.counters = HeadCounters()
        """Of all heads that this node has had."""
        self.head: Head | None = None
        self.leads = False
        self._shared: set[bytes] = set()
        """Frames (digests of their ids) that the head before this one finishes."""
        self._shared_since_s = 0.0
        self._late: Counter[bytes] = Counter()
        """Of the same: copies (by the digests of their keys) that may still come here."""
        self._settlement: Settlement | None = None
        """Of what the head before this one may have answered, where that was lost."""
        broker.on_connection(self._on_connection)

    @property
    def stands_by(self) -> bool:
        """Whether it hears frames and results for another node's head."""
        return self._standby is not None and not self.leads and not self._inputs().isdisjoint(self._subscribed)

    async def follow(self, deployment: Deployment | None, *, send: Send, drain: bool, previous_head: str) -> None:
        """Take the role that the deployment's route gives to this node; none where it has no part in the route.

        Args:
            drain: frames in flight finish on their way.
            previous_head: the node that hosts the head so far, and is alive; empty: there is none to ask.
        """
        route = None if deployment is None else deployment.route
        if deployment is not None and deployment.route.head == self._node:
            self._epoch = deployment.epoch
            if self._fence is not None and self._fence.refused:
                await self._step_down()  # it was no head for a while: what it holds was answered by others
            if self.leads and self.head is not None:
                await self.head.follow(_way(deployment, send), drain=drain)
                self._open_feed(deployment, anew=False)
            else:
                await self._take_over(deployment, send, "" if previous_head == self._node else previous_head)
            return
        if self.leads and not drain:
            self.give_up()
            await self._step_down()  # whoever leads now has sent again what was held here
        if deployment is not None and route is not None and route.standby_head == self._node:
            await self._stand_by(deployment)
        elif not self.leads:
            self._end_standby()
        await self._unsubscribe_stale()

    def give_up(self) -> None:
        """Another node leads, and has sent again what is held here: what is about to come out must not."""
        if self.leads and self._fence is not None:
            self._fence.close()

    async def settle(self, head: str | None) -> None:
        """Every frame is on the active route: a head on this node is over if that route's is another."""
        if self.leads and head != self._node:
            await self._step_down()
            await self._unsubscribe_stale()

    async def on_outcome(self, outcome: Activation | Failure) -> None:
        """What came of frames, for the head."""
        if self.head is not None:
            await self.head.on_outcome(outcome)

    async def check(self) -> None:
        """Raise the error of a task of the head's, if it ended with one: a defect. End a head that has finished."""
        if self._task is not None and self._task.done():
            self._task.result()
        if self._settlement is not None:
            self._settlement.check()
        if self.head is not None and not self.leads and self.head.idle:
            await self._step_down()
            await self._unsubscribe_stale()
        if self._shared and time.monotonic() - self._shared_since_s > SHARED_S:
            self._shared.clear()
            await self._unsubscribe_stale()

    async def stop(self) -> None:
        await self._give_up_settlement()
        await self._step_down()
        self._end_standby()
        if self._feed is not None:
            self._feed.close()
        for subscription in self._subscribed.values():
            await subscription.unsubscribe()
        self._subscribed.clear()

    # ---- roles -------------------------------------------------------------------------------------------------

    async def _stand_by(self, deployment: Deployment) -> None:
        pipeline, flow = deployment.assignment.pipeline, deployment.assignment.flow
        self._pipeline = pipeline
        knows = self._standby is not None
        if not knows:
            await self._begin_standby(pipeline, flow)
        self._other = deployment.route.head
        self._seen.note(deployment.route)
        if self._other != self._node and self._keeping_up is None:
            # Not awaited: a head that has just died lets its questioner wait, and the next route may come meanwhile.
            self._keeping_up = asyncio.create_task(self._keep_up(knows=knows), name="standby-head")

    async def _begin_standby(self, pipeline: str, flow: FlowSettings) -> None:
        """Results first: a frame that is heard of is then never kept for longer than until its result."""
        self._stands_by_since_s = time.monotonic()
        self._seen = SeenRoutes()
        # Of live video only the newest frame is worth going on with.
        frames = 1 if flow.delivery == "latest" else flow.queue_frames
        self._standby = StandbyHead(frames=frames, size_bytes=flow.queue_bytes)
        await self._subscribe(subjects.results_out(pipeline), self._on_result)
        await self._subscribe(_input(pipeline, flow), self._on_frame)

    def _end_standby(self) -> None:
        self._standby = None
        self._other = ""
        if self._keeping_up is not None:
            self._keeping_up.cancel()
            self._keeping_up = None

    async def _keep_up(self, *, knows: bool) -> None:
        """Ask the head what it holds, where this node does not know it, and which of the frames that wait here for long
        it has answered. Until cancelled."""
        standby = self._standby
        assert standby is not None  # noqa: S101 - it has just begun
        while True:
            other = self._head_on(self._other)
            if not knows and (held := await other.held()) is not None:
                standby.catch_up(held)
                knows = True
            await self._learn_answered(other, standby, before_s=time.monotonic() - LONG_S)
            await asyncio.sleep(LONG_S)

    def _head_on(self, node: str) -> OtherHead:
        return OtherHead(self._broker, self._pipeline, node)

    async def _learn_answered(self, other: OtherHead, standby: StandbyHead, *, before_s: float = math.inf) -> None:
        """Let frames go whose results did not come here. Only those with a name: of others nobody can say which."""
        marks = standby.named(before_s=before_s)[:MOST_MARKS]
        if marks and (answered := await other.answered(marks)) is not None:
            over = standby.answered(answered)
            if over:
                log.info("results-missed", frames=over)

    async def _take_over(self, deployment: Deployment, send: Send, previous_head: str) -> None:
        pipeline = deployment.assignment.pipeline
        knows = time.monotonic() - self._stands_by_since_s > KNOWS_AFTER_S
        lost = previous_head or self._other
        senders = self._seen.senders(lost)
        await self._stand_by(deployment)
        standby = self._standby
        assert standby is not None  # noqa: S101 - _stand_by made it
        before = self._head_on(previous_head)
        answer = await before.hand_over(deployment.epoch) if previous_head else None
        finished_there = answer or []
        await self._hear_all()
        self._late = standby.leave_to_the_other(finished_there)
        if answer is not None:
            await self._learn_answered(before, standby)
        elif previous_head:
            log.info("head-does-not-answer", node=previous_head)
        self._shared = {entry[DIGEST_BYTES:] for entry in finished_there}
        self._shared_since_s = time.monotonic()
        head = self.head or self._make_head(deployment.assignment.flow, pipeline)
        for frame_id, result in standby.results():
            head.remember(frame_id, result)
        await head.follow(_way(deployment, send))
        self.head, self.leads = head, True
        self._end_standby()
        self._open_feed(deployment, anew=not knows and not previous_head)
        frames = standby.frames()
        if answer is None:
            await self._settle(head, standby.marks(), lost=lost, senders=senders, epoch=deployment.epoch)
        log.info("head-takes-over", epoch=deployment.epoch, frames=len(frames))
        for message in frames:
            await head.on_frame(message)
        await self._subscribe(subjects.handover(pipeline, self._node), self._on_handover)
        self._epoch = deployment.epoch
        await self._tell_clients(knows=knows)
        await self._unsubscribe_stale()

    async def _settle(
        self, head: Head, marks: Sequence[bytes], *, lost: str, senders: frozenset[str], epoch: int
    ) -> None:
        """The head on another node was lost. What its broker had taken of its results may come yet, where it is cut off
        together with that head; elsewhere the controller has had its connection closed (`broker.presence`).

        Not where results must be in order: all others would wait. Stored ones are stored once all the same.
        """
        flow = self._flow
        assert flow is not None  # noqa: S101 - _make_head has set it
        if not self._broker.clustered or lost in ("", self._node) or flow.ordered or flow.delivery == "durable":
            return
        await self._give_up_settlement()
        self._settlement = Settlement(
            self._broker,
            self._pipeline,
            head,
            self._head_on(lost),
            marks=marks,
            senders=senders,
            epoch=epoch,
            hear_all=self._hear_all,
            on_end=self._unsubscribe_stale,
        )

    async def _give_up_settlement(self) -> None:
        """What is withheld goes out now: that a frame may be answered twice is better than that it is lost."""
        if self.head is not None and self._settlement is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_TIMEOUT_S):
                    await self.head.settle()
        self._end_settlement()

    def _end_settlement(self) -> None:
        if self._settlement is not None:
            self._settlement.stop()
            self._settlement = None

    def _open_feed(self, deployment: Deployment, *, anew: bool) -> None:
        """Durable delivery: have stored frames delivered to this head. `anew`: also what another head was given, and
        may not have answered."""
        flow = deployment.assignment.flow
        if flow.delivery != "durable" or (not anew and self._window == deployment.flow.window):
            return
        self._window = deployment.flow.window
        self._feed = self._feed or Feed(self._broker, self._pipeline, flow.store)
        self._feed.open(window=self._window, anew=anew)

    async def _tell_clients(self, *, knows: bool) -> None:
        """Where it does not know all frames that were published, they publish again what they hold."""
        news = json.dumps({"node": self._node, "epoch": self._epoch, "knows": knows}).encode()
        await self._publish(subjects.lead(self._pipeline), news)

    async def on_gap(self) -> None:
        """A node was disconnected for a moment, or this one was: what was on its way to it is lost."""
        if self.head is None:
            return
        await self.head.send_again()
        if self._missed and self.leads:
            self._missed = False
            await self._tell_clients(knows=False)

    async def _hear_all(self) -> None:
        """Have the standby head hear all that the broker sent to us before: results that the head put out, and frames
        that it has taken."""
        try:
            await self._broker.flush(timeout_s=FLUSH_TIMEOUT_S)
        except BrokerError as error:
            log.warning("flush-failed", reason=str(error))
        # They are in their subscriptions' queues now; let those be emptied.
        for _ in range(QUEUE_TURNS):
            await asyncio.sleep(0)

    async def _on_handover(self, message: Message) -> None:
        """Another node begins to stand by, or leads from now on."""
        if not message.reply or self.head is None:
            return
        try:
            question = read_question(message.data)
        except WireError as error:
            self.counters.malformed.note_message("handover", message, error.reason)
            return
        match question.kind:
            case "what":
                await self._publish(message.reply, entries(self.head.held_ids()))
            case "answered":
                known = {digest(frame_id) for frame_id in self.head.answered_ids()}
                await self._publish(message.reply, b"".join(mark for mark in question.marks if mark in known))
            case "over" if self.leads:  # one that finishes what it holds lets its asker wait
                if question.epoch > self._epoch and self._fence is not None:
                    self._fence.close()
                await self._publish(message.reply, b"")
            case "hand over" if self.leads and question.epoch > self._epoch:
                await self._hand_over(self.head, message.reply)
            case "hand over" if self.leads:
                # Late: whoever asked was over before this node became the head again.
                self.counters.malformed.note_message("handover", message, f"epoch {question.epoch} is over")

    async def _hand_over(self, head: Head, reply: str) -> None:
        if self._standby is None and self._flow is not None:
            # This node may be the one that stands by next: no frame must come between.
            await self._begin_standby(self._pipeline, self._flow)
        self.leads = False
        held = head.held_ids()
        self._tell_standby(head)
        log.info("head-hands-over", frames=len(held))
        self.on_news()
        await self._publish(reply, entries(held))

    def _tell_standby(self, head: Head) -> None:
        """This node's own head, which has handed over, finishes what it holds, and has results on the way."""
        if self._standby is not None:
            self._standby.leave_to_the_other([entry(frame_id) for frame_id in head.held_ids()])
            self._standby.expect_others(digest(frame_id) for frame_id in head.answered_ids())

    def _make_head(self, flow: FlowSettings, pipeline: str) -> Head:
        self._flow = flow
        fence = self._fence = None if self._confirm is None else Fence(self._confirm)
        if fence is not None:
            # The word that made this node the head may have been long on its way, and another be the head by now.
            fence.doubt()
            self._fence_task = asyncio.create_task(fence.run(), name="head-fence")
        head = Head(
            pipeline=pipeline,
            ledger=Ledger(queue_frames=flow.queue_frames, queue_bytes=flow.queue_bytes),
            flow=flow,
            broker=self._broker,
            executor=self._executor,
            on_news=lambda: self.on_news(),
            counters=self.counters,
            fence=fence,
        )
        self._task = asyncio.create_task(head.run(), name="head")
        return head

    async def _step_down(self) -> None:
        self.leads = False
        self._window = 0
        self._end_settlement()
        if self._feed is not None:
            self._feed.close()
        head, tasks = self.head, [task for task in (self._task, self._fence_task) if task is not None]
        self._task = self._fence_task = self._fence = self.head = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if head is not None:
            head.forget()

    # ---- messages ----------------------------------------------------------------------------------------------

    async def _on_frame(self, message: Message) -> None:
        if self.leads and self.head is not None:
            if not self._is_left(message):
                await self.head.on_frame(message)
        elif self._standby is not None:
            await self._standby.on_frame(message)

    def _is_left(self, message: Message) -> bool:
        """Whether the head before this one answers it: that had taken the frame already when it was asked to hand over,
        and a copy comes here only now, over another link."""
        if not self._late or time.monotonic() - self._shared_since_s > LATE_S:
            return False
        try:
            identity = identify(message)
        except WireError:
            return False  # the head refuses it
        mark = digest(identity.key)
        is_left = self._late[mark] > 0
        if is_left and identity.id is None:
            self._late[mark] -= 1  # the next one of the same content is another frame
        return is_left

    async def _on_result(self, message: Message) -> None:
        if self._standby is not None:
            await self._standby.on_result(message)
        if self._settlement is not None:
            self._settlement.heard(message.data)
        if self.head is not None and (not self.leads or self._shared):
            await self._learn_result(self.head, bytes(message.data))

    async def _learn_result(self, head: Head, result: bytes) -> None:
        """While two heads may hold the same frame, which was published again meanwhile, one answer is enough."""
        frame_id = id_of(result)
        if frame_id is None:
            return
        if not self.leads:
            await head.answered_elsewhere(frame_id, result)
        elif (mark := digest(frame_id)) in self._shared:
            self._shared.discard(mark)
            await head.answered_elsewhere(frame_id, result)
            if not self._shared:
                await self._unsubscribe_stale()

    def _on_connection(self, up: bool) -> None:
        """It was lost, or is there again: another node may have become the head meanwhile."""
        if self._fence is not None:
            log.info("head-in-doubt", connected=up)
            self._fence.doubt()
        self._missed = True
        if self.head is not None:
            self.head.on_connection(up)
        if up and self.leads and self._feed is not None:
            self._feed.open(window=self._window, anew=True)  # what was on its way is lost

    async def _publish(self, subject: str, data: bytes) -> None:
        try:
            await self._broker.publish(subject, data)
        except BrokerError as error:
            log.warning("publish-failed", subject=subject, reason=str(error))

    async def _subscribe(self, subject: str, handler: Handler) -> None:
        if subject not in self._subscribed:
            self._subscribed[subject] = await self._broker.subscribe(subject, handler)

    def _inputs(self) -> set[str]:
        return {subjects.frames_in(self._pipeline), subjects.feed(self._pipeline)}

    async def _unsubscribe_stale(self) -> None:
        # Looked at anew each time: roles may change while a subscription is ended.
        while stale := self._subscribed.keys() - self._needed():
            await self._subscribed.pop(stale.pop()).unsubscribe()

    def _needed(self) -> set[str]:
        """What the roles of now listen to."""
        needed: set[str] = set()
        if self.leads:
            needed = self._inputs()
        if self.head is not None:
            needed |= {subjects.handover(self._pipeline, self._node)}
        if self._standby is not None:
            needed |= {*self._inputs(), subjects.results_out(self._pipeline)}
        is_settled = self._settlement is None or not self._settlement.is_open
        if self.head is not None and (self._shared or not self.leads or not is_settled):
            needed.add(subjects.results_out(self._pipeline))
        return needed


def _input(pipeline: str, flow: FlowSettings) -> str:
    """Where frames come from."""
    return subjects.feed(pipeline) if flow.delivery == "durable" else subjects.frames_in(pipeline)


def _way(deployment: Deployment, send: Send) -> Way:
    route = deployment.route
    accuracy = route.expected_accuracy
    provenance = Provenance(
        technique=route.technique, exit=route.exit or None, expected_accuracy=accuracy, epoch=route.epoch
    )
    return Way(
        epoch=route.epoch,
        model=deployment.assignment.spec,
        spec=deployment.spec,
        flow=deployment.flow,
        provenance=provenance,
        send=send,
    )
