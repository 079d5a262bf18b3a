import json, sys, subprocess
from tests.kafka_worker import new_place
from tests.kafka import administrator
from tests.streams import vectors
from tests.processes import wait_for
EVENTS = vectors(200)
def test_x(broker, tmp_path):
    place = new_place(broker, tmp_path, without=(".commands", ".answers"))
    place.send(EVENTS[:50])
    with place.run() as run:
        place.until_answered(run, 50)
        assert run.stops() == 0
    with place.command("topics") as topics:
        assert topics.ends() == 0
    place.send([b'{"command":"pause","request":"a"}'], ".commands")
    place.send(EVENTS[50:60])
    with place.run() as run:
        run.says("goes on from ")
        place.until_answered(run, 60)
        print(place.committed())
        place.send([b'{"command":"checkpoint","request":"b"}'], ".commands")
        try:
            wait_for(lambda: place.read(".answers"), "x")
        except AssertionError:
            print(place.committed(), place.newest["position"], place.checkpoints(), [m.value for m in place.read(".commands")])
            print(place.read(".answers", "read_uncommitted"))
            print(subprocess.run(["/tmp/venv/bin/py-spy","dump","--pid",str(run.process.pid)],capture_output=True,text=True).stdout[-3000:])
            raise
        print("answered", place.read(".answers"))
