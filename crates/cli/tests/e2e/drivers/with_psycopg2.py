"""A client by psycopg2, which is libpq. Its argument is a topic; the server is in the environment."""
import faulthandler
import io
import os
import select
import sys
import threading
import time

import psycopg2
import psycopg2.errors

# Whoever hangs tells where.
faulthandler.dump_traceback_later(80, exit=True)


def connect(**more):
    server = {name: os.environ["PG" + name.upper()] for name in ("host", "port", "user", "password")}
    session = psycopg2.connect(dbname="postgres", connect_timeout=70, **server, **more)
    session.autocommit = True
    return session


def one(session, sql, *values):
    cursor = session.cursor()
    cursor.execute(sql, values)
    return cursor.fetchone()[0]


def until(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "not within 30 s"
        time.sleep(0.05)


def hold():
    print(one(connect(), "SELECT inet_server_port()"))


def cancel(**more):
    session, other = connect(**more), connect()
    pid = session.get_backend_pid()
    seen = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

    def cancels():
        until(lambda: one(other, seen, pid) == 1)
        session.cancel()

    thread = threading.Thread(target=cancels)
    thread.start()
    try:
        session.cursor().execute("SELECT pg_sleep(75)")
        raise AssertionError("it slept to its end")
    except psycopg2.errors.QueryCanceled:
        pass
    thread.join()
    assert one(session, "SELECT pg_backend_pid()") == pid


def copy():
    session = connect()
    cursor = session.cursor()
    cursor.execute("CREATE TEMP TABLE copied (id int, words text)")
    rows = "".join(f"{number}\t{'x' * (number % 97)}\n" for number in range(100000))
    cursor.copy_expert("COPY copied FROM STDIN", io.StringIO(rows))
    assert cursor.rowcount == 100000, cursor.rowcount
    out = io.StringIO()
    cursor.copy_expert("COPY (SELECT * FROM copied ORDER BY id) TO STDOUT", out)
    assert out.getvalue() == rows


def large_objects():
    session = connect()
    session.autocommit = False
    content = os.urandom(4 << 20)
    made = session.lobject(mode="wb")
    assert made.write(content) == len(content)
    made.close()
    session.commit()
    found = session.lobject(made.oid, mode="rwb")
    assert found.read() == content
    found.seek(1 << 20)
    found.truncate(2 << 20)
    found.seek(1 << 20)
    assert found.read() == content[1 << 20 : 2 << 20]
    found.unlink()
    session.commit()


def listen():
    session, other = connect(), connect()
    session.cursor().execute("LISTEN news")
    for number in range(3):
        news = str(number) * 7000
        other.cursor().execute("SELECT pg_notify('news', %s)", (news,))
        readable, _, _ = select.select([session], [], [], 30)
        assert readable, "no news"
        session.poll()
        notice = session.notifies.pop(0)
        assert notice.payload == news and notice.pid == other.get_backend_pid()


def tls():
    authority = os.environ["AUTHORITY"]
    # The password is bound to the one TLS connection that reaches from here to PostgreSQL.
    secured = {"sslmode": "verify-full", "sslrootcert": authority, "channel_binding": "require"}
    session = connect(**secured)
    assert one(session, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    cancel(**secured)


{f.__name__: f for f in (hold, cancel, copy, large_objects, listen, tls)}[sys.argv[1]]()
