"""The MQTT back end keeps the contract on uvloop, which the command line uses."""

from __future__ import annotations

from tests.contract.test_mqtt import TestMosquitto as OnMosquitto
from tests.contract.test_mqtt import TestNatsServersMqtt as OnNatsServer


class TestMosquittoOnUvloop(OnMosquitto):
    pass


class TestNatsServersMqttOnUvloop(OnNatsServer):
    pass


# pytest would run what it finds under these names once more.
del OnMosquitto, OnNatsServer
