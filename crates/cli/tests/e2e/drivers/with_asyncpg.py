"""A client by asyncpg, which has the protocol for itself. Its argument is a topic; the server is in
the environment."""
import asyncio
import faulthandler
import io
import os
import ssl
import sys
import time

import asyncpg

# Whoever hangs tells where.
faulthandler.dump_traceback_later(80, exit=True)


async def connect(secured=False):
    server = {name: os.environ["PG" + name.upper()] for name in ("host", "port", "user", "password")}
    # Without a word it would try TLS first.
    secured = ssl.create_default_context(cafile=os.environ["AUTHORITY"]) if secured else False
    return await asyncpg.connect(database="postgres", timeout=70, ssl=secured, **server)


async def until(holds):
    end = time.monotonic() + 30
    while not await holds():
        assert time.monotonic() < end, "not within 30 s"
        await asyncio.sleep(0.05)


async def hold():
    print(await (await connect()).fetchval("SELECT inet_server_port()"))


async def cancel(secured=False):
    session, other = await connect(secured), await connect()
    pid = session.get_server_pid()
    seen = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
    sleeping = asyncio.create_task(session.execute("SELECT pg_sleep(75)"))
    await until(lambda: other.fetchval(seen, pid))
    # The driver sends the request, in TLS where the session has it, and gives up waiting.
    sleeping.cancel()
    try:
        await sleeping
        raise AssertionError("it slept to its end")
    except asyncio.CancelledError:
        pass
    # Before it uses the session again it waits for the server's word on the statement.
    assert await session.fetchval("SELECT pg_backend_pid()") == pid


async def copy():
    session = await connect()
    await session.execute("CREATE TEMP TABLE copied (id int, words text)")
    rows = [(number, "x" * (number % 97)) for number in range(100000)]
    # In the binary format.
    said = await session.copy_records_to_table("copied", records=rows)
    assert said == "COPY 100000", said
    out = io.BytesIO()
    await session.copy_from_query("SELECT * FROM copied ORDER BY id", output=out)
    assert out.getvalue() == "".join(f"{number}\t{words}\n" for number, words in rows).encode()


async def large_objects():
    session = await connect()
    content = os.urandom(4 << 20)
    oid = await session.fetchval("SELECT lo_from_bytea(0, $1)", content)
    async with session.transaction():
        # 0x40000: INV_READ.
        descriptor = await session.fetchval("SELECT lo_open($1, 262144)", oid)
        pieces = [await session.fetchval("SELECT loread($1, 1048576)", descriptor) for _ in range(5)]
    assert b"".join(pieces) == content
    assert await session.fetchval("SELECT lo_unlink($1)", oid) == 1


async def listen():
    session, other = await connect(), await connect()
    heard = asyncio.Queue()
    await session.add_listener("news", lambda _, pid, channel, news: heard.put_nowait((pid, news)))
    for number in range(3):
        news = str(number) * 7000
        await other.execute("SELECT pg_notify('news', $1)", news)
        assert await asyncio.wait_for(heard.get(), 30) == (other.get_server_pid(), news)


async def tls():
    session = await connect(secured=True)
    assert await session.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await cancel(secured=True)


topics = {f.__name__: f for f in (hold, cancel, copy, large_objects, listen, tls)}
asyncio.run(topics[sys.argv[1]]())
