"""A proxy that cuts connections in the middle of a reply. Threads of this process; no process of its own."""

import random
import socket
import threading


class Cutter:
    """Forwards to a port; while it is `on`, each connection dies after so many bytes of replies, at random, in the middle of one."""

    def __init__(self, port, seed=1, most=4000):
        self.port, self.random, self.most, self.on, self.cuts = port, random.Random(seed), most, False, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[1]
        self.open = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.port))
            except OSError:
                client.close()
                continue
            self.open |= {client, server}
            threading.Thread(target=self._forward, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, True), daemon=True).start()

    def _forward(self, source, target, replies):
        left = self.random.randrange(1, self.most)
        try:
            while data := source.recv(65536):
                if replies and self.on:
                    if left < len(data):
                        target.sendall(data[:left])
                        self.cuts += 1
                        break
                    left -= len(data)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()
            self.open.discard(end)

    def close(self):
        self.listener.close()
        for end in list(self.open):
            end.close()
