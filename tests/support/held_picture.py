"""A server of pictures that come when the test lets them: who asks for one is in progress until then."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMEOUT_S = 60


class HeldPicture:
    """Pictures on loopback HTTP that come when the test lets them."""

    def __init__(self, picture: bytes) -> None:
        let = self.let = threading.Event()
        asked = self.asked = threading.Semaphore(0)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.release()
                let.wait(TIMEOUT_S)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(picture)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.let.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
