"""The only way out of the network that builds run in, which has nothing but its loopback.

Whoever connects to the port comes out at stdout, and what goes in at stdin comes back to him: where to, the owner of
the two decides. A frame is a kind, a connection, a length, and so many bytes.

out  r ready   o opened   d data   e all is sent   a broken   t so many bytes of data are passed on (4 bytes)
in             d data   e all is sent   a break it
"""
import asyncio
import struct
import sys

HEAD = struct.Struct(">cII")
LENGTH = struct.Struct(">I")
CHUNK = 65536


class Relay:
    def __init__(self, out):
        self.out = out
        self.queues = {}
        self.number = 0
        self.draining = asyncio.Lock()

    def say(self, kind, number=0, data=b""):
        self.out.write(HEAD.pack(kind, number, len(data)) + data)

    async def accepted(self, reader, writer):
        self.number += 1
        number, queue = self.number, asyncio.Queue()
        self.queues[number] = queue
        self.say(b"o", number)
        tasks = [
            asyncio.ensure_future(self.pass_out(number, reader)),
            asyncio.ensure_future(self.pass_in(number, queue, writer)),
        ]
        try:
            await asyncio.gather(*tasks)
        except OSError:
            self.say(b"a", number)
        finally:
            for task in tasks:
                task.cancel()
            self.queues.pop(number, None)
            writer.close()

    async def pass_out(self, number, reader):
        while True:
            data = await reader.read(CHUNK)
            if not data:
                self.say(b"e", number)
                return
            self.say(b"d", number, data)
            async with self.draining:
                await self.out.drain()

    async def pass_in(self, number, queue, writer):
        while True:
            kind, data = await queue.get()
            if kind == b"e":
                writer.write_eof()
                return
            if kind == b"a":
                writer.transport.abort()
                raise ConnectionAbortedError
            writer.write(data)
            await writer.drain()
            self.say(b"t", number, LENGTH.pack(len(data)))


async def main(port):
    loop = asyncio.get_running_loop()
    inward = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(inward), sys.stdin.buffer)
    pipe, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, sys.stdout.buffer
    )
    relay = Relay(asyncio.StreamWriter(pipe, protocol, None, loop))
    await asyncio.start_server(relay.accepted, "127.0.0.1", port)
    relay.say(b"r")
    while True:
        try:
            kind, number, length = HEAD.unpack(await inward.readexactly(HEAD.size))
            data = await inward.readexactly(length)
        except asyncio.IncompleteReadError:
            return  # The owner is gone.
        queue = relay.queues.get(number)
        if queue:
            queue.put_nowait((kind, data))


asyncio.run(main(int(sys.argv[1])))
