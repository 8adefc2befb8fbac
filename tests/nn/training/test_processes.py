"""Training in processes of its own: killed from outside, and in two processes at once."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
from tests.nn.training.test_resume import small_data
from structmat_nn.training import train
torch.manual_seed(0)
model = torch.nn.Linear(8, 8)
if sys.argv[1] == "slow":
    model.register_forward_hook(lambda *_: __import__("time").sleep(0.01))
devices = int(sys.argv[3])
settings = {"epochs": 200, "batch_size": 8, "learning_rate": 1e-2, "minimum_learning_rate": 1e-3}
train(model, small_data(16), **settings, directory=sys.argv[2], checkpoint_steps=7,
      accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto")
torch.save(model.state_dict(), sys.argv[2] + "/model.pt")
"""


def start(folder, pace="fast", devices=1):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment["PYTHONPATH"] = os.getcwd()
    return subprocess.Popen([sys.executable, str(script), pace, str(folder), str(devices)], env=environment)


def finished(folder, **options):
    assert start(folder, **options).wait(timeout=200) == 0
    return torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.slow
def test_killed_process_continues_bit_for_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    expected = finished(whole)
    process = start(killed, pace="slow")
    until = time.monotonic() + 200
    while not (killed / "last.ckpt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (killed / "last.ckpt").exists()
    assert not (killed / "model.pt").exists()
    assert all(torch.equal(value, expected[name]) for name, value in finished(killed).items())


@pytest.mark.slow
def test_two_processes_share_each_batch(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    expected, found = finished(one), finished(two, devices=2)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-5)  # sums in another order
