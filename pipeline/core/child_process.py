"""Run calls in a child process that may crash or be killed, and report how it ended."""

import os
import pickle
import resource
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TypeVar

from pipeline.core.errors import InputError

Result = TypeVar("Result")

BOOT = (
    "import sys; sys.path[:] = sys.argv[1:]; from pipeline.core.child_process import serve; serve()"
)
"""`multiprocessing` would also import the parent's main module: Ray's worker, for 0.9 s."""


class ChildDied(Exception):
    """The child process ended during a call, with this exit code: below 0 for a signal."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class ChildEnded(Exception):
    """The child was ended by `Child.end`, during the call or before it."""


class Child:
    """A process that runs one call after another.

    It starts at the first call, and again at the next call after it died. It ends with its parent.
    It has a session of its own, so that Ctrl-C does not reach it, and its output is discarded.
    """

    _process: subprocess.Popen[bytes] | None = None
    _is_ended = False

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not been found dead."""
        return self._process is not None

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Run a module's function in the child and return its result.

        Raises:
            ChildDied: the process ended before it returned.
            ChildEnded: `end` was called.
            InputError: the process cannot start.
            Exception: whatever the function raised, with the child's traceback as a note.
        """
        try:
            if self._is_ended:
                raise ChildEnded
            if self._process is None:
                self._start()
            if self._is_ended:  # while it started
                raise ChildEnded
            self._connection.send_bytes(pickle.dumps((function, arguments)))
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            exit_code = self._wait()
            if self._is_ended:
                raise ChildEnded from None
            raise ChildDied(exit_code) from None
        except BaseException:  # after an interrupt, the answer would be taken for the next call's
            self.close()
            raise
        if failed:
            raise answer
        result: Result = answer
        return result

    def close(self) -> None:
        """Kill the process if it runs."""
        if self._process is not None:
            self._process.kill()
            self._wait()

    def end(self) -> None:
        """Kill the process, and let no call start it again; may be called from another thread."""
        self._is_ended = True
        process = self._process
        if process is not None:
            process.kill()  # the call that waits for it sees its end

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        try:
            process = self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, *sys.path],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,  # until it serves
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"a child process cannot start: {error}") from error
        finally:
            theirs.close()
        assert process.stderr is not None
        with process.stderr:
            try:
                self._connection.recv()
            except (EOFError, OSError):
                said = process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise InputError(
                    f"a child process cannot start (exit code {self._wait()}): "
                    f"{said or 'it ends without a word'}"
                ) from None

    def _wait(self) -> int:
        """Wait for the process to end and return its exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        self._connection.close()
        return process.wait()


def serve() -> None:
    """Answer the calls of the parent, which is at the other end of standard input."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected: no core files
    parent = Connection(os.dup(0))
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(parent, requests), daemon=True).start()
    for descriptor, flags in ((0, os.O_RDONLY), (2, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, flags), descriptor)
    parent.send(None)  # it serves
    while True:
        request = requests.get()
        reply: tuple[bool, object]
        try:
            function, arguments = pickle.loads(request)
            reply = (False, function(*arguments))
        except Exception as error:
            reply = (True, _sendable(error))
        parent.send(reply)


def _receive(parent: Connection, requests: "SimpleQueue[bytes]") -> None:
    """Pass the parent's requests on; end this process, also during a call, with the parent."""
    with suppress(EOFError, OSError):
        while True:
            requests.put(parent.recv_bytes())
    os._exit(0)


def _sendable(error: Exception) -> Exception:
    """The error with its traceback as a note, or a RuntimeError of it if it cannot be pickled."""
    trace = "".join(traceback.format_exception(error))
    error.add_note(trace)
    with suppress(Exception):  # an exception's own __reduce__ or __init__ can raise anything
        again = pickle.loads(pickle.dumps(error))
        if type(again) is type(error) and str(again) == str(error):
            return error
    return RuntimeError(trace)
