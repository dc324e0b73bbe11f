"""Optuna's side of `benches/scale.py`: clients of its gRPC storage proxy that ask, report and tell, and whose training takes no time.

    python optuna_scale.py --url postgresql+psycopg2://USER@HOST:PORT/NAME --clients 100 --seconds 10

What is done in Optuna's favour, so that the comparison is fair:

- a proxy for each core, each with more threads and connections to the database than by default, and with the cache in front of
  the database that the proxy's documentation advises;
- clients are threads of a process for each core, so that Python is not started and imported a thousand times;
- points are drawn at random, which asks the storage for no earlier trials;
- its answers may be as slow as they like, as long as they come within the time that is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import GrpcStorageProxy, get_storage, run_grpc_proxy_server

STUDY = "scale"
EPOCHS = 10
SPACE = {
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "dropout": FloatDistribution(0.0, 0.5),
    "weight_decay": FloatDistribution(0.0, 1e-2),
}
CORES = len(os.sched_getaffinity(0))
# Of a proxy: calls answered at once, and connections to the database.
THREADS = 32
READY_S_MAX = 120
# After what is measured: a call that is not over by then is not waited for.
GRACE_S = 5


@dataclass
class Times:
    """Milliseconds of what ended while it was measured."""

    ask: list[float] = field(default_factory=list)
    report: list[float] = field(default_factory=list)
    tell: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def serve(url: str, port: int) -> None:
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    engine = {"pool_size": THREADS, "max_overflow": 0}
    storage = get_storage(optuna.storages.RDBStorage(url, engine_kwargs=engine))
    optuna.create_study(storage=storage, study_name=STUDY, direction="maximize", load_if_exists=True)
    run_grpc_proxy_server(storage, host="127.0.0.1", port=port, thread_pool=ThreadPoolExecutor(THREADS))


def train(study: optuna.Study, window: tuple[float, float], times: Times) -> None:
    """One trial: the same calls as a worker's of Earshot, lease, reports, finish."""

    def took(of: list[float], since: float) -> None:
        now = time.time()
        if window[0] <= now < window[1]:
            of.append((now - since) * 1e3)

    asked = time.time()
    trial = study.ask(fixed_distributions=SPACE)
    took(times.ask, asked)
    for epoch in range(1, EPOCHS + 1):
        if time.time() >= window[1]:
            return
        asked = time.time()
        trial.report(random.random(), epoch)
        took(times.report, asked)
    asked = time.time()
    study.tell(trial, random.random())
    took(times.tell, asked)


def clients(ports: list[int], numbers: range, ready, window, results) -> None:
    """A process of clients, each a thread with a connection of its own."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    of_all: list[Times] = []

    def live(number: int, times: Times) -> None:
        storage = GrpcStorageProxy(host="127.0.0.1", port=ports[number % len(ports)])
        sampler = optuna.samplers.RandomSampler(seed=number)
        study = optuna.load_study(storage=storage, study_name=STUDY, sampler=sampler)
        ready.release()
        while not window[1]:
            time.sleep(0.05)
        try:
            while time.time() < window[1]:
                train(study, (window[0], window[1]), times)
        except Exception as error:  # noqa: BLE001 whatever it is, it is told
            times.errors.append(repr(error)[:200])

    threads = []
    for number in numbers:
        of_all.append(Times())
        threads.append(threading.Thread(target=live, args=(number, of_all[-1]), daemon=True))
        threads[-1].start()
    while not window[1] or time.time() < window[1] + GRACE_S:
        time.sleep(0.1)
    results.put([vars(times) for times in of_all])
    results.close()
    results.join_thread()
    os._exit(0)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def quantile(ordered: list[float], q: float) -> float | None:
    return ordered[min(int(len(ordered) * q), len(ordered) - 1)] if ordered else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="the database, as SQLAlchemy has it")
    parser.add_argument("--clients", type=int, required=True, help="that ask at the same time")
    parser.add_argument("--seconds", type=float, default=10, help="how long is measured (default 10)")
    parser.add_argument("--warm", type=float, default=3, help="seconds before that (default 3)")
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("spawn")
    ports = [free_port() for _ in range(CORES)]
    proxies = []
    for port in ports:
        proxies.append(context.Process(target=serve, args=(arguments.url, port), daemon=True))
        proxies[-1].start()
        # One after the other, since the first makes the tables.
        GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(READY_S_MAX)
    ready, results = context.Semaphore(0), context.Queue()
    window = context.Array("d", [0.0, 0.0], lock=False)
    processes = []
    for first in range(min(CORES, arguments.clients)):
        numbers = range(first, arguments.clients, CORES)
        given = (ports, numbers, ready, window, results)
        processes.append(context.Process(target=clients, args=given, daemon=True))
        processes[-1].start()
    give_up = time.monotonic() + READY_S_MAX
    are_ready = sum(ready.acquire(timeout=max(0.01, give_up - time.monotonic())) for _ in range(arguments.clients))
    # The end is told last: it is what clients wait for.
    window[0] = time.time() + arguments.warm
    window[1] = window[0] + arguments.seconds
    times = [Times(**found) for _ in processes for found in results.get(timeout=READY_S_MAX)]
    for process in proxies:
        process.kill()

    def rate(count: int) -> float:
        return count / arguments.seconds

    asks, reports = (sorted(ms for of_one in times for ms in getattr(of_one, name)) for name in ("ask", "report"))
    errors = [error for of_one in times for error in of_one.errors]
    found = {
        "workers": arguments.clients,
        "ready": are_ready,
        "reports_hz": rate(len(reports)),
        "runs_hz": rate(sum(len(of_one.tell) for of_one in times)),
        "lease_p50_ms": quantile(asks, 0.5),
        "lease_p99_ms": quantile(asks, 0.99),
        "report_p50_ms": quantile(reports, 0.5),
        "report_p99_ms": quantile(reports, 0.99),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
