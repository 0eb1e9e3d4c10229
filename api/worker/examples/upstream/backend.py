"""An HTTP backend that knows nothing of coatcheck but two headers: python3 backend.py PORT.
Named as `upstream` of a service, it does what a conformance run asks of a worker."""
import http.server, json, select, socket, sys

class Backend(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        attempt = self.headers["Coatcheck-Attempt"]
        ask = json.loads(body) if body.startswith(b'{"do":') else {"do": "echo"}
        if ask["do"] == "echo":
            return self.answer(200, body, self.headers.get("Content-Type", "application/octet-stream"))
        if ask["do"] == "progress":  # an HTTP answer has parts, but nothing that is none of them
            return self.answer(501, b"unsupported")
        if ask["do"] == "fail":
            return self.answer(500, ask["reason"].encode())
        if ask["do"] == "retry" and attempt == "1":
            return self.answer(503, b"not now", retry_after="0")
        if ask["do"] == "partial":  # JSON Lines come as one partial reply a line
            return self.answer(200, b"one\ntwo\nthree\n", "application/x-ndjson")
        if not self.abandoned(ask.get("ms", 0) / 1000):
            self.answer(200, b"attempt " + attempt.encode())

    def abandoned(self, seconds):
        """Waits, and tells whether the gateway hung up meanwhile, as it does on a cancel."""
        return bool(select.select([self.connection], [], [], seconds)[0]) and not self.connection.recv(1, socket.MSG_PEEK)

    def answer(self, status, body, content_type="text/plain", retry_after=None):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Backend).serve_forever()
