"""A relay before RabbitMQ that counts the frames of AMQP that go through it, both ways. Threads of this process."""

import contextlib
import socket
import struct
import threading
from collections import Counter

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
PUBLISH, ACK = (60, 40), (60, 80)
NAMES = {
    (20, 10): "channel.open", (20, 11): "channel.open-ok", (20, 40): "channel.close", (20, 41): "channel.close-ok",
    (50, 10): "queue.declare", (50, 11): "queue.declare-ok", (60, 10): "basic.qos", (60, 11): "basic.qos-ok",
    PUBLISH: "basic.publish", (60, 60): "basic.deliver", ACK: "basic.ack",
}  # fmt: skip


class FrameCounter:
    """Counts what whoever connects here and the server say to each other: `heartbeats`, `events` (what is told of a worker to whoever listens, with the
    server's confirmations of it), and `others`, by method."""

    def __init__(self, port):
        self.port, self.lock = port, threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()[1]
        self.reset()
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self):
        with self.lock:
            self.heartbeats, self.events, self.others = 0, 0, Counter()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.port))
            # Channels on which an event is on its way, and those on which its confirmation is to come.
            telling, told = set(), Counter()
            threading.Thread(target=self._forward, args=(client, server, len(b"AMQP\0\0\x09\x01"), telling, told), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, 0, telling, told), daemon=True).start()

    def _forward(self, source, target, skip, telling, told):
        ours, left = skip > 0, b""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
                left += data
                if skip and len(left) < skip:
                    continue
                left, skip = left[skip:], 0
                while len(left) >= 7 and len(left) >= (end := 8 + struct.unpack_from(">I", left, 3)[0]):
                    kind, channel = struct.unpack_from(">BH", left)
                    self._count(kind, channel, left[7 : end - 1], ours, telling, told)
                    left = left[end:]
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _count(self, kind, channel, payload, ours, telling, told):
        with self.lock:
            if kind == HEARTBEAT:
                self.heartbeats += 1
                return
            if kind != METHOD:
                # Its message is that of the method before.
                if ours and channel in telling:
                    self.events += 1
                else:
                    self.others["contents"] += 1
                return
            method = struct.unpack_from(">HH", payload)
            if ours:
                telling.discard(channel)
                if method == PUBLISH and payload[7 : 7 + payload[6]] == b"celeryev":
                    telling.add(channel)
                    told[channel] += 1
                    self.events += 1
                    return
            elif method == ACK and told[channel]:
                tag, many = struct.unpack_from(">QB", payload, 4)
                told[channel] = 0 if many else told[channel] - 1
                self.events += 1
                return
            self.others[NAMES.get(method, method)] += 1
