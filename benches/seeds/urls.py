"""Five URLs of the lesson and three that fail, with a time-out of 5 s: one after another, and on three threads."""

import concurrent.futures
import http.server
import socket
import threading
import time
import urllib.error
import urllib.request

from common import check, options, say, seconds, way, workers

options("urls")
TIMEOUT = seconds(5)


# repair: httpbin.org needs the internet and answers when it likes. This answers the same, and what `longshore demo urls` has besides: a 503, an answer
# later than the time-out, and a port where nobody listens, so that both do the same work
class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        time.sleep({"/delay": seconds(1), "/late": seconds(7)}.get(self.path, 0))
        body = b'{"delayed":true}' if self.path in ("/delay", "/late") else b'{"title":"a quick answer"}'
        try:
            self.send_response(503 if self.path == "/503" else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has given up

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
threading.Thread(target=server.serve_forever, daemon=True).start()
closed = socket.create_server(("127.0.0.1", 0))
refusing = closed.getsockname()[1]
closed.close()
port = server.server_address[1]
urls = [f"http://127.0.0.1:{port}{path}" for path in ["/delay", "/delay", "/delay", "/json", "/uuid", "/503", "/late"]]
urls.append(f"http://127.0.0.1:{refusing}/refused")


def fetch_url_info(url):
    """Fetch URL and return timing info."""
    try:
        start_time = time.perf_counter()
        # repair: requests is not in the standard library
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            content = response.read()
        return {
            "url": url,
            "status": response.status,
            "time": time.perf_counter() - start_time,
            "size": len(content),
            "success": True,
        }
    except Exception as e:
        return {"url": url, "error": str(e), "success": False}


def sequential():
    return [fetch_url_info(url) for url in urls]


def threaded():
    results = []
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers(3)) as executor:
        future_to_url = {executor.submit(fetch_url_info, url): url for url in urls}
        for future in concurrent.futures.as_completed(future_to_url):
            result = future.result()
            results.append(result)
            say(result)
    return results


for name, work in [("one after another", sequential), ("threads, as completed", threaded)]:
    fetched = way(name, work)
    check(sum(one["success"] for one in fetched) == 5, f"{name}: five should have succeeded: {fetched}")
