"""A RabbitMQ of Debian's package, with fresh data, on free ports of the loopback; its name, cookie and epmd are its own."""

import os
import shutil
import signal
import socket
import struct
import time
from pathlib import Path

from procs import Process, free_port

HOME = next((home for home in sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")) if (home / "plugins").is_dir()), None)
MISSING = "rabbitmq-server is missing: apt-get install rabbitmq-server"

# Evaluates expressions that come to a socket in its directory, each with its length in front: what `rabbitmqctl eval` does, in a millisecond.
EVAL = """spawn(fun() ->
    {ok, L} = gen_tcp:listen(0, [{ifaddr, {local, os:getenv("HOME") ++ "/eval"}}, {packet, 4}, {active, false}, binary]),
    Accept = fun Accept() ->
        {ok, S} = gen_tcp:accept(L),
        case gen_tcp:recv(S, 0) of
            {ok, Text} ->
                Answer = try
                    {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Text)),
                    {ok, Parsed} = erl_parse:parse_exprs(Tokens),
                    {value, Value, _} = erl_eval:exprs(Parsed, []),
                    io_lib:format("ok ~0tp", [Value])
                catch Class:Reason -> io_lib:format("error ~0tp: ~0tp", [Class, Reason]) end,
                gen_tcp:send(S, unicode:characters_to_binary(Answer));
            _ -> gone
        end,
        gen_tcp:close(S), Accept() end,
    Accept() end)."""


class RabbitServer:
    def __init__(self, folder, conf="", management=False):
        assert HOME and shutil.which("erl"), MISSING
        self.folder, self.conf, self.management = folder, conf, management
        folder.mkdir(parents=True, exist_ok=True)
        self.process = self.epmd = None
        self.vhosts = 0
        self.start()

    def start(self):
        """Starts it, or starts it again with the data that it had, on the same ports."""
        again = self.process is not None
        for _ in range(4):
            if not again:
                self.port, self.epmd_port, self.distribution, self.http = (free_port() for _ in range(4))
            self._configure()
            if self._launch():
                return self
            self.stop()
        raise AssertionError(f"rabbitmq-server does not start:\n{self.process.text()[-3000:]}")

    def _configure(self):
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", self.conf]
        if self.management:
            lines += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {self.http}"]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "enabled_plugins").write_text("[rabbitmq_management]." if self.management else "[].")
        # It looks for each of its modules in each folder of libraries.
        libraries = self.folder / "libraries"
        libraries.mkdir(exist_ok=True)
        for library in (HOME / "plugins").iterdir():
            is_plugin = library.name.startswith("rabbitmq_") and not library.name.startswith("rabbitmq_prelaunch")
            if (self.management or not is_plugin) and not (libraries / library.name).exists():
                (libraries / library.name).symlink_to(library)

    def _launch(self):
        name, folder = f"rabbit-{self.port}@127.0.0.1", self.folder
        env = {"HOME": folder, "ERL_EPMD_PORT": self.epmd_port, "ERL_EPMD_ADDRESS": "127.0.0.1", "ERL_LIBS": folder / "libraries"}
        env |= {"ERL_MAX_ETS_TABLES": 50000, "RABBITMQ_NODENAME": name, "RABBITMQ_USE_LONGNAME": "true", "RABBITMQ_LOGS": "-", "RABBITMQ_HOME": HOME}
        files = {"CONF_ENV_FILE": "none", "CONFIG_FILE": "rabbitmq.conf", "ADVANCED_CONFIG_FILE": "advanced.config", "ENABLED_PLUGINS_FILE": "enabled_plugins"}
        files |= {"MNESIA_BASE": "data", "LOG_BASE": "logs", "PID_FILE": "pid", "GENERATED_CONFIG_DIR": "generated"}
        env |= {f"RABBITMQ_{variable}": folder / file for variable, file in files.items()}
        env = {variable: str(value) for variable, value in env.items()}
        if self.epmd is None or not self.epmd.alive():
            self.epmd = Process(["epmd", "-port", self.epmd_port, "-address", "127.0.0.1"], folder / "epmd.log", env=env)
            until = time.monotonic() + 10
            while time.monotonic() < until and socket.socket().connect_ex(("127.0.0.1", self.epmd_port)):
                time.sleep(0.01)
        (folder / "eval").unlink(missing_ok=True)
        argv = ["erl", "-noinput", "-eval", EVAL, "-s", "rabbit", "boot", "-boot", "start_sasl", "-name", name]
        argv += "+W w +S 1:1 +A 1 +sbwt none +sbwtdcpu none +sbwtdio none +MBas ageffcbf +MHas ageffcbf +MMmcs 30".split()
        argv += "-syslog logger [] -syslog syslog_error_logger false -kernel prevent_overlapping_partitions false".split()
        argv += ["-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        argv += ["-kernel", "inet_dist_listen_min", self.distribution, "-kernel", "inet_dist_listen_max", self.distribution]
        self.process = Process(argv, folder / "rabbit.log", env=env)
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.alive():
            try:
                if (folder / "eval").exists() and self.ask("ok = rabbit:await_startup(node(), false, 60000), ok.") == "ok ok":
                    return True
            except OSError:
                pass
            time.sleep(0.02)
        return False

    def ask(self, expression):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            # A path of a socket may not be long.
            here = os.open(self.folder, os.O_RDONLY)
            try:
                client.connect(f"/proc/self/fd/{here}/eval")
            finally:
                os.close(here)
            text = expression.encode()
            client.sendall(struct.pack(">I", len(text)) + text)
            length = client.recv(4, socket.MSG_WAITALL)
            if len(length) < 4:
                raise ConnectionError("the node ends")
            return client.recv(struct.unpack(">I", length)[0], socket.MSG_WAITALL).decode()

    def eval(self, expression):
        """What this Erlang gives in the node, as Erlang writes it."""
        answer = self.ask(expression)
        assert answer.startswith("ok "), f"{expression} => {answer}"
        return answer.removeprefix("ok ")

    def vhost(self):
        """The name of a virtual host in which nothing lies."""
        self.vhosts += 1
        name = f"v{self.vhosts}"
        all = '<<".*">>, <<".*">>, <<".*">>'
        self.eval(f'ok = rabbit_vhost:add(<<"{name}">>, <<"test">>), '
                  f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, {all}, <<"test">>).')
        return name

    def url(self, vhost):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{vhost}"

    def queues(self, vhost):
        """Of each queue: how many messages wait, how many were delivered and are not acknowledged, and its consumers."""
        # One that is deleted meanwhile does not answer.
        told = self.eval(f"""iolist_to_binary([try
            I = rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged, consumers]), N = element(4, amqqueue:get_name(Q)),
            [N, [[9, integer_to_binary(V)] || {{_, V}} <- I], 10]
            catch exit:_ -> [] end || Q <- rabbit_amqqueue:list(<<"{vhost}">>)]).""")
        lines = told.removeprefix('<<"').removesuffix('">>').replace("\\t", "\t").replace("\\n", "\n").splitlines()
        rows = [line.split("\t") for line in lines if "\t" in line]
        return {row[0]: tuple(map(int, row[1:])) for row in rows}

    def kill(self):
        self.process.kill()

    def freeze(self):
        self.process.signal(signal.SIGSTOP)

    def thaw(self):
        self.process.signal(signal.SIGCONT)

    def stop(self):
        self.process.kill()
        if self.epmd is not None:
            self.epmd.kill()
