"""From a request of Gradio's to its work: who asks, whose turn it is, errors in one sentence, and the end of it.

Gradio calls a handler here as a coroutine. The work itself runs in a thread of ours, as a `Job` that is admitted at
once or refused, so that cancelling it, or going away, ends it at its next step, and nothing counts as done before it
is.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import logging
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import gradio as gr
from gradio.components import Component
from gradio.context import LocalContext

from background_remover.page.files import file_store
from background_remover.page.guard import client_address, listeners
from background_remover.page.state import is_own, read_number
from background_remover.page.turns import current_job, scheduler
from background_remover.scheduler import WAITING, AbandonedError, BusyError, Client, Job, Kind, PostponedError
from utilities import PhotoError

logger = logging.getLogger(__name__)

Steps = Generator[Any, None, None]
Answer = TypeVar("Answer")

END = object()
NICE = 5  # of the threads that work: a third of the event loop's share of a core for which both compete

GIVEN_UP = "This was given up since nobody listened for it: send it again."
WRONG = "Something went wrong here: try again, or try another photo."

kinds: dict[str, Kind] = {}  # of handlers by name

_on_page: dict[str, list[Work]] = {}  # that run, of each session whose page has some


def step_back() -> None:
    """Let the event loop go before this thread, and before those that it starts for the network."""
    with contextlib.suppress(AttributeError, OSError):  # other systems have no priorities of threads
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICE)


# One for each job that there can be, and some for those that have been left and end: none waits for another's thread.
_threads = ThreadPoolExecutor(
    sum(most for *_, most in WAITING.values()) + 64, thread_name_prefix="job", initializer=step_back
)


# --- errors ---


@contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Tell the visitor what is wrong in one sentence; what is our fault goes to the log alone."""
    try:
        yield
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except AbandonedError:
        raise gr.Error(GIVEN_UP, print_exception=False) from None
    except gr.Error:
        raise
    except Exception:
        logger.exception("%s failed", name)
        raise gr.Error(WRONG, print_exception=False) from None


# --- handlers ---


def plainly(
    kind: Kind, on_page: bool = False, refused: Callable[..., Any] | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A handler, or one that yields, as a job of that kind with `plain_errors`; its files stay while it runs.

    With `on_page` it changes the pictures of a page, of whose photos only the newest counts, by the number of the state
    that came with it, see `page.state`: it ends what else is done for that page, except for a newer one or the same
    photo, its first argument, and until it has ended edits come to nothing, which is {}. `refused` gives, for a reason
    and the arguments, what stands for its results where there are none.
    """

    def wrap(handler: Callable[..., Any]) -> Callable[..., Any]:
        steps = handler if inspect.isgeneratorfunction(handler) else _one_step(handler)
        kinds[handler.__name__] = kind

        async def run(inputs: tuple[Any, ...]) -> AsyncGenerator[Any, None]:
            try:
                async with contextlib.aclosing(_run(kind, on_page, steps, inputs, handler.__name__)) as values:
                    async for value in values:
                        yield value
            except BusyError as error:
                if refused is None:
                    raise gr.Error(str(error), print_exception=False) from None
                yield refused(str(error), *inputs)
            except gr.Error as error:
                if refused is None:
                    raise
                yield refused(error.message, *inputs)

        @functools.wraps(handler)
        async def answer(*inputs: Any) -> Any:
            async with contextlib.aclosing(run(inputs)) as values:
                return await anext(values)

        @functools.wraps(handler)
        async def answer_in_turn(*inputs: Any) -> AsyncGenerator[Any, None]:
            async with contextlib.aclosing(run(inputs)) as values:
                async for value in values:
                    yield value

        return answer_in_turn if inspect.isgeneratorfunction(handler) else answer

    return wrap


def expect(name: str, address: str) -> Callable[[], None]:
    """A call of that handler has come from there; gives what to do if it comes to nothing.

    Raises BusyError if it is clear by now that it can't be admitted.
    """
    if kind := kinds.get(name):
        scheduler().expect(kind, address)
    return functools.partial(expect_no_more, name, address)


def expect_no_more(name: str, address: str) -> None:
    """Such a call has come to nothing before it was admitted."""
    if kind := kinds.get(name):
        scheduler().expect_no_more(kind, address)


def _one_step(handler: Callable[..., Any]) -> Callable[..., Steps]:
    """The handler as one that yields once; it starts anew whenever it was postponed."""

    def steps(*inputs: Any) -> Steps:
        while True:
            with contextlib.suppress(PostponedError):
                yield handler(*inputs)
                return

    return steps


async def _run(
    kind: Kind, on_page: bool, handler: Callable[..., Steps], inputs: tuple[Any, ...], name: str
) -> AsyncGenerator[Any, None]:
    """What the handler yields, step by step in a thread; the job ends when its last step has, whoever has gone.

    Raises BusyError.
    """
    client, session, event = who_asks()
    if on_page and any(is_own(inputs[0], value) for value in inputs[1:]):
        yield {}  # no change, and none that an edit beside it has to give way to
        return
    beside = [work for work in _on_page.get(session, ()) if work.wanted] if on_page else []
    photos = [work for work in beside if work.kind == "photo"]
    number = max(map(read_number, inputs), default=0)
    if photos and (kind != "photo" or any(work.first_input == inputs[0] or work.number > number for work in photos)):
        yield {}
        return
    if listeners.has_left(event):
        raise gr.Error(GIVEN_UP, print_exception=False)
    for other in beside if kind == "photo" else ():
        other.replace()
    job = scheduler().admit(kind, client, lambda: listeners.heard(session, event))
    work = Work(job, handler, inputs, name)
    if on_page:
        _on_page.setdefault(session, []).append(work)
    listeners.on_leaving(session, event, work.leave)
    try:
        while True:
            with plain_errors(name):
                value = await work.step()
            if value is END:
                break
            yield value
    finally:
        work.leave()
        listeners.forget(work.leave)
        if on_page:
            _on_page[session].remove(work)
            if not _on_page[session]:
                del _on_page[session]


async def run_job(
    kind: Kind, client: Client, handler: Callable[[], Answer], inputs: tuple[Any, ...], gone: Coroutine[Any, Any, None]
) -> Answer:
    """What a handler gives, as a job of that kind in a thread, which ends at its next step when `gone` does.

    `inputs` are uploads that stay meanwhile. Raises BusyError at once, AbandonedError, and what the handler raises.
    """
    try:
        job = scheduler().admit(kind, client)
    except BaseException:
        gone.close()
        raise
    work = Work(job, _one_step(lambda *_: handler()), inputs, kind)
    leaving = asyncio.ensure_future(gone)
    leaving.add_done_callback(lambda _: work.leave())
    try:
        answer: Answer = await work.step()
        return answer
    finally:
        leaving.cancel()
        work.leave()


class Work:
    """A handler that yields, as it runs; closed by whoever comes last, its thread or the one who waits for it."""

    def __init__(self, job: Job, handler: Callable[..., Steps], inputs: tuple[Any, ...], name: str) -> None:
        self._job, self._name = job, name
        self._context = contextvars.copy_context()
        self._context.run(current_job.set, job)
        self._steps = self._with_files(handler, inputs)
        self._running: asyncio.Future[Any] | None = None
        self.kind, self.first_input = job.kind, inputs[0] if inputs else None
        self.number = max(map(read_number, inputs), default=0)
        self._replaced = False
        self._ended = False

    def _with_files(self, handler: Callable[..., Steps], inputs: tuple[Any, ...]) -> Steps:
        with file_store().request(*inputs):
            yield from handler(*inputs)

    @property
    def wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self._job.left

    async def step(self) -> Any:
        """The next value, or END, also where it was left between two steps and is being closed."""
        if self._ended:
            return END
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(_threads, self._context.run, self._next)
        self._running.add_done_callback(self._done)
        return await asyncio.shield(self._running)

    def _done(self, running: asyncio.Future[Any]) -> None:
        running.cancelled() or running.exception()  # nobody may be there to be told
        if not self.wanted:
            self._close()

    def _next(self) -> Any:
        value: Any = {}
        try:
            value = next(self._steps, END)
        except BaseException:
            self._job.leave()
            if not self._replaced:
                raise
        return {} if self._replaced and value is not END else value

    def replace(self) -> None:
        """A newer one of the same visitor's takes its place."""
        self._replaced = True
        self._job.leave()

    def leave(self) -> None:
        """Nobody waits any longer, or all is done."""
        self._job.leave()
        if self._running is None or self._running.done():
            self._close()

    def _close(self) -> None:
        if not self._ended:
            self._ended = True
            _threads.submit(self._context.run, self._end)

    def _end(self) -> None:
        try:
            self._steps.close()
        except BaseException:
            logger.exception("%s could not be ended", self._name)
        finally:
            scheduler().end(self._job)


def who_asks() -> tuple[Client, str, str]:
    """The visitor of Gradio's request in hand, and the ids of the session and the event for which somebody listens.

    The server of tools has one session for all its visitors; each of its calls counts as one.
    """
    request, event = LocalContext.request.get(None), LocalContext.event_id.get(None) or ""
    session = getattr(request, "session_hash", None) or event
    inner = getattr(request, "request", request)
    is_tool = inner is not None and inner.headers.get("x-gradio-user") == "mcp"
    return Client(event if is_tool else session, client_address(inner)), session, event


def by_name(handler: Callable[..., Any], components: Mapping[str, Component]) -> Callable[..., Any]:
    """A handler that gives, or yields, values by the names of components; those without one stay as they are."""

    def to_components(values: Mapping[str, Any]) -> Any:
        return {components[name]: value for name, value in values.items()} or gr.skip()

    @functools.wraps(handler)
    async def answer(*inputs: Any) -> Any:
        return to_components(await handler(*inputs))

    @functools.wraps(handler)
    async def answer_in_turn(*inputs: Any) -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(handler(*inputs)) as steps:
            async for values in steps:
                yield to_components(values)

    return answer_in_turn if inspect.isasyncgenfunction(handler) else answer
