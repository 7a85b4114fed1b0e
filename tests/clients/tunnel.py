"""A proxy that understands CONNECT and leads every host to one address. It sees only TLS."""

import socket
import socketserver
import threading


def start(target: str) -> str:
    """Starts it on a free port; returns the URL to name in HTTPS_PROXY."""
    host, port = target.rsplit(":", 1)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            asked = self.rfile.readline().split()
            while self.rfile.readline().strip():
                pass
            if len(asked) < 2 or asked[0] != b"CONNECT":
                self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection((host, int(port))) as upstream:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=pump, args=(upstream, self.connection), daemon=True)
                back.start()
                pump(self.connection, upstream)
                back.join()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copies until the source ends, and passes the end on."""
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side is gone, which ends this side too
