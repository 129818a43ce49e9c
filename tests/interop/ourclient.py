"""Our client, as a program that is told what to send."""

import json
import os
import subprocess
import threading

from lab import LABAPP
from procs import die_with_parent


class Client:
    """`labapp client`, told by lines what to send."""

    def __init__(self, broker):
        me = os.getpid()
        self.popen = subprocess.Popen(
            [LABAPP, "client", broker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=lambda: die_with_parent(me),
        )  # fmt: skip
        self.count, self.said, self.news = 0, {}, threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.popen.stdout:
            answer = json.loads(line)
            with self.news:
                self.said[answer["n"]] = answer
                self.news.notify_all()

    def tell(self, **request):
        self.count += 1
        self.popen.stdin.write(json.dumps({"n": self.count, **request}) + "\n")
        self.popen.stdin.flush()
        return self.count

    def told(self, n, seconds=20):
        with self.news:
            assert self.news.wait_for(lambda: n in self.said, seconds), f"no answer to request {n}"
            return self.said.pop(n)

    def call(self, signature, wait=15):
        return self.told(self.tell(send=signature, wait=wait))

    def close(self):
        self.popen.kill()
        self.popen.wait()
