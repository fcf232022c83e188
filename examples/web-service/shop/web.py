"""The web service: takes orders, hands them to the workers, and tells what became of them.

POST /orders?n=3                  places three orders and returns their task ids
POST /orders?n=3&queue=express    places them in another queue than `orders`
GET  /orders/<id>                 returns the state of one, and its confirmation once there is one
GET  /healthz
"""

import json
import random
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from muster.errors import BrokerUnavailable

from .tasks import app, confirm

QUEUE = "orders"
MOST = 20_000
GOODS = {"tea": 450, "coffee": 820, "sugar": 199}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self):
        """Place orders."""
        url = urlsplit(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if url.path != "/orders":
            self.answer(HTTPStatus.NOT_FOUND, {"error": f"there is no {url.path}"})
            return
        asked = parse_qs(url.query)
        given, queue = asked.get("n", ["1"])[0], asked.get("queue", [QUEUE])[0]
        if not given.isdecimal() or not 1 <= int(given) <= MOST:
            self.answer(
                HTTPStatus.BAD_REQUEST, {"error": f"n must be a number from 1 to {MOST}, not {given!r}"}
            )
            return
        ids = []
        try:
            for number in range(int(given)):
                ids.append(place(number, queue))  # noqa: PERF401 - those placed before an error are told
        except BrokerUnavailable as error:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error), "ids": ids})
            return
        self.answer(HTTPStatus.ACCEPTED, {"ids": ids})

    def do_GET(self):
        """Tell what became of an order."""
        if self.path == "/healthz":
            self.answer(HTTPStatus.OK, {"ok": True})
            return
        start, _, task_id = self.path.rpartition("/")
        if start != "/orders" or not task_id:
            self.answer(HTTPStatus.NOT_FOUND, {"error": f"there is no {self.path}"})
            return
        try:
            result = app.AsyncResult(task_id)
            state = result.state
            found = {"id": task_id, "state": state}
            if result.successful():
                found["confirmation"] = result.result
            elif result.failed():
                found["error"] = str(result.result)
        except BrokerUnavailable as error:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)})
            return
        self.answer(HTTPStatus.OK, found)

    def answer(self, status, body):
        """Send JSON."""
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, code="-", size="-"):
        """Log all but the probes."""
        if self.path != "/healthz":
            super().log_request(code, size)


def place(number, queue):
    """Send one order to the workers and return its id."""
    items = [
        {"name": name, "quantity": random.randint(1, 5), "cents": cents}
        for name, cents in random.sample(sorted(GOODS.items()), k=2)
    ]
    return confirm.apply_async((f"order {number}", items), queue=queue).id


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
