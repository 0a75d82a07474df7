"""A notebook's kernel as a real process: cells run in it, their outputs, and its interrupt button."""

import time
from contextlib import contextmanager

from jupyter_client.manager import KernelManager

from tests.process import HANGS, environment


class Cell:
    """What a cell has put out: outputs as a notebook would save them, after all updates."""

    def __init__(self):
        self.outputs, self.updates = [], 0

    def take(self, kind, content):
        if kind == "stream":
            last = self.outputs[-1] if self.outputs else {}
            if last.get("name") == content["name"]:
                last["text"] += content["text"]
            else:
                self.outputs.append(dict(content))
        elif kind in ("display_data", "execute_result", "error"):
            self.outputs.append(content)
        elif kind == "update_display_data":
            self.updates += 1
            name = content["transient"]["display_id"]
            (shown,) = [o for o in self.outputs if o.get("transient", {}).get("display_id") == name]
            shown["data"] = content["data"]

    @property
    def displays(self):
        """The data of what is displayed, by type."""
        return [output["data"] for output in self.outputs if "data" in output]

    @property
    def error(self):
        """What the cell's error shows; None if it has none."""
        return next(("\n".join(o["traceback"]) for o in self.outputs if "ename" in o), None)

    @property
    def text(self):
        """All that is plain text."""
        return "\n".join(o.get("text", o.get("data", {}).get("text/plain", "")) for o in self.outputs)


class Kernel:
    """A kernel that runs."""

    def __init__(self, manager):
        self.manager, self.client = manager, manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(HANGS)

    def run(self, source, when=None):
        """Runs a cell to its end.

        Args:
            source: Its code.
            when: Called with the cell at each output; once it says True, the interrupt button is pressed.
        """
        cell, number = Cell(), self.client.execute(source)
        limit = time.monotonic() + HANGS
        while True:
            message = self.client.get_iopub_msg(limit - time.monotonic())
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return cell
            cell.take(kind, content)
            if when is not None and when(cell):
                self.manager.interrupt_kernel()
                when = None


@contextmanager
def kernel(folder):
    """Starts a kernel in a folder."""
    own = {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(folder), env=environment(TF_CPP_MIN_LOG_LEVEL="3", **own))
    try:
        started = Kernel(manager)
        yield started
        started.client.stop_channels()
    finally:
        manager.shutdown_kernel(now=True)
