"""Ways to a RabbitMQ that a URL can name: with TLS, several servers, virtual hosts; for a worker, for the command line, and as Celery reads them."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess

import pytest
from amqp import Message
from celery import Celery

import rabbit as rabbitmq
from lab import LABAPP
from procs import Process, eventually, free_port
from proxy import Cutter

pytestmark = [pytest.mark.amqp, pytest.mark.ours]


def command(*words, broker):
    return subprocess.run([LABAPP, *words, "--broker", broker], capture_output=True, text=True, timeout=60)


def adds(broker):
    """Asks whoever serves it for a sum, by the command line."""
    done = command("call", "lab.add", "-a", "[20, 22]", "--wait=30s", broker=broker)
    return done.stdout.strip() or done.stderr


@pytest.fixture
def worker(tmp_path):
    """Starts workers, and ends them."""
    started = []

    def start(broker):
        argv = [LABAPP, "worker", "-l", "info", "-n", f"w{len(started)}@lab", "-c", 2, "--broker", broker]
        started.append(Process(argv, tmp_path / f"w{len(started)}.log", name="worker"))
        started[-1].wait_for(r"\bready\b")
        return started[-1]

    def end():
        while started:
            started[-1].signal(signal.SIGTERM)
            # Once more: what still runs is not waited for.
            assert (started[-1].wait(3) or started[-1].stop()) == 0, started[-1].text()
            started.pop()

    start.end = end
    yield start
    end()


def certificates(folder):
    """An authority, a server's certificate and a client's that it has signed, and another authority."""

    def openssl(words):
        subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)

    folder.mkdir()
    (folder / "san.cnf").write_text("subjectAltName=DNS:localhost")
    for name in ("ca", "other"):
        openssl(f"req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=test-{name} -keyout {name}.key -out {name}.pem")
    for name in ("node", "client"):
        openssl(f"req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {name}.key -out {name}.csr")
        openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile san.cnf -out {name}.pem")
    return folder


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is missing: apt-get install openssl")
@pytest.mark.limit(90)
@pytest.mark.parametrize("asks", [False, True], ids=["server known", "client known too"])
def test_amqps_is_checked_on_both_sides_or_it_is_said_that_it_is_not(tmp_path, worker, asks):
    if rabbitmq.HOME is None and os.environ.get("CI") != "true":
        pytest.skip(rabbitmq.MISSING)
    files, port = certificates(tmp_path / "tls"), free_port()
    conf = [f"listeners.ssl.1 = 127.0.0.1:{port}", f"ssl_options.cacertfile = {files}/ca.pem", f"ssl_options.certfile = {files}/node.pem"]
    conf += [f"ssl_options.keyfile = {files}/node.key", f"ssl_options.verify = verify_{'peer' if asks else 'none'}"]
    conf += ["ssl_options.fail_if_no_peer_cert = true"] * asks
    server = rabbitmq.RabbitServer(tmp_path / "rabbit", conf="\n".join(conf))
    try:
        ours = f"&ssl_certfile={files}/client.pem&ssl_keyfile={files}/client.key" if asks else ""
        url = f"amqps://guest:guest@localhost:{port}/{server.vhost()}?ssl_ca_certs={files}/ca.pem{ours}"
        worker(url)
        assert adds(url) == "42"
        # Celery's client reaches the same worker, with its own way to say it.
        names = {"ca_certs": f"{files}/ca.pem", "cert_reqs": ssl.CERT_REQUIRED, **({"certfile": f"{files}/client.pem", "keyfile": f"{files}/client.key"} if asks else {})}
        app = Celery(broker=url.split("?")[0], backend="rpc://", broker_use_ssl=names, set_as_current=False)
        assert app.send_task("lab.add", (1, 2)).get(timeout=20) == 3
        app.close()
        rows = [
            (url.replace("ca.pem", "other.pem"), "certificate"),
            (url.replace("localhost", "127.0.0.1"), "certificate"),
            (url.replace(str(port), str(server.port)), "TLS"),
        ]
        if asks:
            rows.append((url.split("&")[0], "certificate"))
        for wrong, word in rows:
            said = command("status", broker=wrong)
            assert said.returncode != 0 and word in said.stderr and "guest:guest" not in said.stderr, (wrong, said.stderr)
            assert "\n" not in said.stderr.strip(), said.stderr
        unseen = f"{url.split('?')[0]}?insecure=true{ours}".replace("localhost", "127.0.0.1")
        assert adds(unseen) == "42" and "NOT looked at" in worker(unseen).text()
        worker.end()
    finally:
        server.stop()


@pytest.mark.limit(90)
def test_of_several_servers_the_first_that_answers_is_taken_and_the_next_when_it_dies(rabbit, worker):
    vhost = rabbit.vhost()

    def url(*ports):
        return ";".join(f"amqp://guest:guest@127.0.0.1:{port}/{vhost}" for port in ports)

    dead = free_port()
    # One that accepts connections and says nothing: a frozen machine.
    silent = socket.create_server(("127.0.0.1", 0))
    mute = silent.getsockname()[1]
    one, other = Cutter(rabbit.port), Cutter(rabbit.port)
    try:
        for ports in [(dead, rabbit.port), (mute, rabbit.port), (mute, dead, rabbit.port)]:
            said = command("status", broker=url(*ports))
            # No worker runs yet, which is said, too.
            assert said.returncode == 69 and "rabbitmq 3." in said.stdout, (ports, said)
        served = worker(url(dead, one.address, other.address))
        assert adds(url(rabbit.port)) == "42" and one.open and not other.open
        one.close()
        assert eventually(lambda: other.open, 20)
        assert adds(url(rabbit.port)) == "42" and served.alive()
        # All are away: each is named.
        said = command("status", broker=url(dead, free_port()))
        assert said.returncode != 0 and said.stderr.count("127.0.0.1:") >= 2, said.stderr
    finally:
        silent.close()
        other.close()


@pytest.mark.limit(60)
def test_a_virtual_host_is_named_as_celery_names_it(rabbit, worker):
    rabbit.eval('ok = rabbit_vhost:add(<<"a/b">>, <<"test">>), rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"a/b">>, '
                '<<".*">>, <<".*">>, <<".*">>, <<"test">>).')
    for names in [("", "/", "//", "/%2F", "/%2f"), ("/a%2Fb",)]:
        urls = [f"amqp://guest:guest@127.0.0.1:{rabbit.port}{name}" for name in names]
        worker(urls[0])
        for url in urls:
            assert adds(url) == "42", url
            app = Celery(broker=url, backend="rpc://", set_as_current=False)
            assert app.send_task("lab.add", (1, 2)).get(timeout=20) == 3, url
            app.close()
    said = command("status", broker=f"amqp://guest:guest@127.0.0.1:{rabbit.port}/nowhere")
    assert said.returncode != 0 and "nowhere" in said.stderr, said.stderr


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    """A server with its management plugin."""
    if rabbitmq.HOME is None and os.environ.get("CI") != "true":
        pytest.skip(rabbitmq.MISSING)
    server = rabbitmq.RabbitServer(tmp_path_factory.mktemp("managed"), conf="collect_statistics_interval = 500", management=True)
    yield server
    server.stop()


@pytest.mark.limit(90)
def test_all_queues_are_listed_where_the_management_plugin_is_named(managed, worker, tmp_path):
    vhost = managed.vhost()
    url = managed.url(vhost)
    app = Celery(broker=url, set_as_current=False)
    for queue, count in (("celery", 3), ("nobodys", 2)):
        for n in range(count):
            app.send_task("lab.slow", (60,), queue=queue)
    with app.connection_for_write() as connection, connection.channel() as channel:
        channel.queue_declare("empty", durable=True, auto_delete=False)
        channel.queue_declare("longshore.dead.nobodys", durable=True, auto_delete=False)
        channel.basic_publish(Message(b"x"), "", "longshore.dead.nobodys")
    worker(url)

    def rows(options=""):
        done = command("--json", "queues", *options.split()[1:], broker=f"{url}?management={options.split()[0]}")
        return {row["queue"]: (row["waiting"], row["held"], row["workers"], row["dead"]) for row in map(json.loads, done.stdout.splitlines())} or done.stderr

    # Two of them run, and another one is at hand; the server's numbers are some time old.
    expected = {"celery": (0, 3, 1, 0), "empty": (0, 0, 0, 0), "nobodys": (2, 0, 0, 1)}
    assert eventually(lambda: rows(f"{managed.http} list") == expected, 20, 0.2), rows(f"{managed.http} list")
    assert rows(f"http://127.0.0.1:{managed.http}/ list") == expected
    assert rows(f"{managed.http} show celery") == {"celery": expected["celery"]}

    def idle():
        done = command("--json", "queues", "show", "empty", broker=f"{url}?management={managed.http}")
        return json.loads(done.stdout).get("idle_since")

    # As RabbitMQ says it, once the process of the queue sleeps.
    assert eventually(idle, 20, 0.2)
    # Without it they are those that workers serve, and it is said what to add.
    said = command("queues", broker=url)
    assert "celery" in said.stdout and "nobodys" not in said.stdout and "?management=15672" in said.stderr, said
    # Nobody is there; nobody knows us.
    said = command("queues", broker=f"{url}?management={free_port()}")
    assert said.returncode != 0 and "management plugin" in said.stderr and "refused" in said.stderr, said.stderr
    managed.eval(f"""ok = rabbit_auth_backend_internal:add_user(<<"plain">>, <<"secret">>, <<"test">>),
        rabbit_auth_backend_internal:set_permissions(<<"plain">>, <<"{vhost}">>, <<".*">>, <<".*">>, <<".*">>, <<"test">>).""")
    said = command("queues", broker=f"{url}?management={managed.http}".replace("guest:guest", "plain:secret"))
    assert said.returncode != 0 and "set_user_tags plain management" in said.stderr and "secret" not in said.stderr, said.stderr
    app.close()
