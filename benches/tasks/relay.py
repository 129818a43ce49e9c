"""A relay as if the server were far away: everything takes `seconds` there, and back again."""
import asyncio
import socket
import threading


class Relay:
    """Listens on `port` of the loopback until the program ends."""

    def __init__(self, to, seconds):
        self.to, self.seconds = to, seconds
        ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.listen(ready)), daemon=True).start()
        ready.wait()

    async def listen(self, ready):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()

    async def serve(self, reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        for side in (writer, back):
            side.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(self.carry(reader, back), self.carry(there, writer))

    async def carry(self, reader, writer):
        """What comes is sent on when its time has come, and holds up nothing that comes behind it."""
        loop, travelling = asyncio.get_running_loop(), asyncio.Queue()

        async def arrive():
            while True:
                due, data = await travelling.get()
                await asyncio.sleep(max(0, due - loop.time()))
                if not data:
                    return writer.close()
                writer.write(data)

        arriving = asyncio.create_task(arrive())
        try:
            data = True
            while data:
                data = await reader.read(65536)
                await travelling.put((loop.time() + self.seconds, data))
        except ConnectionError:
            await travelling.put((0, b""))
        await arriving
