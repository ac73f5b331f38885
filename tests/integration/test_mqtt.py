"""The whole pipeline over an MQTT broker; somebody with plain paho publishes images and reads what comes out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import pytest

import understudy
from broker import control, subjects
from broker.connect import connect
from broker.url import redact
from tests.contract.mqtt_servers import MqttServer, mosquitto, nats_listener
from tests.integration.conftest import Digits
from tests.integration.harness import Shell, eventually
from tests.integration.mqtt_stranger import marked, mqtt_stranger
from tests.integration.stranger import stranger
from tests.integration.test_recovery import Running, bridged_first, pipeline

BROKERS = {"mosquitto": mosquitto, "nats-server": nats_listener}
AGAIN_S = 20.0


@pytest.fixture(params=list(BROKERS))
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[MqttServer]:
    async with BROKERS[request.param]() as server:
        yield server


async def test_the_commands_and_the_client_work_on_a_pipeline_over_mqtt(
    shell: Shell, digits: Digits, broker: MqttServer
) -> None:
    image = shell.folder / "seven.png"
    image.write_bytes(digits.frames[digits.labels.index(7)])
    with shell.up("--nodes", "4", "--broker", broker.url) as up:
        assert up.url == redact(broker.url)
        with shell.start("watch", "--json") as watching:
            lines: list[str] = []
            for _ in range(20):  # the first ones may come before `watch` listens
                published = shell.run("publish", "digits", str(image), "--json")
                assert json.loads(published.out)["class_index"] == 7, published.err
                with contextlib.suppress(AssertionError):
                    lines.append(watching.line(0.5))
                    break
            assert json.loads(lines[0])["class_index"] == 7
        status = json.loads(shell.run("status", "--json").out)
        assert (status["state"], status["broker"]) == ("running", redact(broker.url))
        assert len({node["name"] for node in status["nodes"] if node["alive"]}) == 4
        assert "start" in shell.run("events").out
        async with understudy.connect(broker.url, "digits") as client:
            results = [result async for result in client.stream(digits.frames[:100])]
        assert sum(r.class_index == label for r, label in zip(results, digits.labels[:100], strict=True)) >= 97
        refused = shell.run("controller", "--broker", broker.url, "--bundle", str(digits.bundle), "--standby")
        assert refused.code == 2
        assert "MQTT has no JetStream" in refused.err
        second = shell.run("controller", "--broker", broker.url, "--bundle", str(digits.bundle))
        assert second.code == 2
        assert "has a controller" in second.err
    assert shell.left_behind() == []


async def test_images_are_published_as_they_are_and_answered_with_json(
    shell: Shell, digits: Digits, broker: MqttServer
) -> None:
    with shell.up("--nodes", "2", "--broker", broker.url):
        async with mqtt_stranger(broker.url, "digits") as own:
            for image, label in zip(digits.frames[:20], digits.labels[:20], strict=True):
                await own.publish(image, f"png-{label}")
            own.connection.publish("understudy/digits/in", marked(digits.frames[1], "", "JPEG"), qos=0)
            own.connection.publish("understudy/digits/in", b"no image", qos=1)

            async def count() -> tuple[int, int]:
                return len(own.results), len(own.letters)

            await eventually(
                count, lambda seen: seen[0] >= 22 and seen[1] >= 1, within_s=AGAIN_S, what="22 results and a letter"
            )
            good = [result for result in own.results if result["error"] is None]
            assert len(good) == 21
            assert sum(result["id"] == f"png-{result['class_index']}" for result in good) >= 19
            [letter] = own.letters
            assert letter["code"] == "not-an-image"
            # What only looks like an envelope harms nobody.
            own.connection.publish("understudy/digits/in", b"\x00ustd\x01\r\n\xc1 rubbish", qos=1)
            assert (await own.answer(digits.frames[0]))["error"] is None


@pytest.mark.parametrize("position", [0, 2], ids=["the head", "the third"])
async def test_a_killed_node_is_bridged_and_healed_and_each_image_is_answered_once(
    shell: Shell, digits: Digits, broker: MqttServer, position: int
) -> None:
    async with pipeline(shell, digits, 4, "--broker", broker.url, meet=mqtt_stranger) as running:
        victim = running.order[position]
        before = (await running.ready_for_a_failure())["epoch"]
        running.signal(signal.SIGKILL, victim)
        await healed_without(running, victim, before)


@pytest.mark.parametrize("position", [0, 2], ids=["the head", "the third"])
async def test_a_stopped_node_answers_nothing_twice_when_it_goes_on(
    shell: Shell, digits: Digits, broker: MqttServer, position: int
) -> None:
    async with pipeline(shell, digits, 4, "--broker", broker.url, meet=mqtt_stranger) as running:
        victim = running.order[position]
        before = (await running.ready_for_a_failure())["epoch"]
        running.signal(signal.SIGSTOP, victim)
        try:
            await healed_without(running, victim, before)
        finally:
            running.signal(signal.SIGCONT, victim)
        await running.stream.healthy_after(before, through=victim)
        await running.stream.answers(50)
        assert running.stream.again == 0


async def healed_without(running: Running, victim: str, before: int) -> None:
    healthy = await running.stream.healthy_after(before, in_a_row=50)
    assert victim not in {hop["node"] for hop in healthy["path"]}
    await bridged_first(running, victim, healthy)
    assert running.stream.again == 0  # whoever publishes once is answered, too


async def test_a_broker_that_is_killed_and_comes_back_is_all_that_it_takes(
    shell: Shell, digits: Digits, broker: MqttServer
) -> None:
    with shell.up("--nodes", "3", "--broker", broker.url):
        async with understudy.connect(broker.url, "digits", timeout_s=AGAIN_S) as client:
            assert (await client.infer(digits.frames[0])).class_index == digits.labels[0]
            await broker.kill()
            waiting = asyncio.ensure_future(client.infer(digits.frames[1]))
            await broker.start()
            assert (await waiting).class_index == digits.labels[1]
            results = [result async for result in client.stream(digits.frames[:100])]
            assert [result.error for result in results] == [None] * 100

        async def living() -> list[bool]:
            outcome = await asyncio.to_thread(shell.run, "status", "--json")
            return [node["alive"] for node in json.loads(outcome.out)["nodes"]] if outcome.code == 0 else []

        await eventually(living, lambda seen: seen == [True] * 3, within_s=AGAIN_S, what="three living nodes")


async def test_the_route_that_a_controller_left_behind_long_ago_harms_nobody(
    shell: Shell, digits: Digits, broker: MqttServer
) -> None:
    words = {"pipeline": "digits", "controller": "gone", "previous_head": ""}
    old = control.Activate(**words, epoch=999, drain=False, assignment=None)
    before = await connect(broker.url)
    await before.publish(subjects.activate("digits"), control.encode(old))
    await before.close()
    with shell.up("--nodes", "2", "--broker", broker.url) as up:
        assert up.document["epoch"] < old.epoch
        async with understudy.connect(broker.url, "digits") as client:
            assert (await client.infer(digits.frames[0])).class_index == digits.labels[0]


async def test_a_camera_with_mqtt_and_a_pipeline_on_nats(shell: Shell, digits: Digits) -> None:
    """`understudy up --mqtt-port`: who publishes and who listens need not speak what the pipeline speaks."""
    with shell.up("--nodes", "2", "--mqtt-port", "0") as up:
        assert up.url.startswith("nats://")
        async with mqtt_stranger(up.document["mqtt"], "digits") as camera, stranger(up.url, "digits") as listener:
            answer = await camera.answer(digits.frames[3], "by mqtt")
            assert answer["class_index"] == digits.labels[3]
            await listener.answer(digits.frames[4], "by nats")
            await camera.result("by nats")
            assert [len(one.results) for one in (camera, listener)] == [2, 2]


async def test_an_mqtt_listener_is_the_embedded_broker_s_alone(shell: Shell) -> None:
    refused = shell.run("up", "--nodes", "1", "--broker", "nats://127.0.0.1:4222", "--mqtt-port", "0")
    assert refused.code == 2
    assert "mqtt_port" in refused.err


async def test_durable_delivery_is_refused(shell: Shell, broker: MqttServer) -> None:
    refused = shell.run("up", "--nodes", "1", "--delivery", "durable", "--broker", broker.url)
    assert refused.code == 2
    assert "MQTT cannot promise durable delivery" in refused.err
