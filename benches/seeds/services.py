"""Five health checks at once."""

import concurrent.futures
import time

from common import Luck, check, options, say, seconds, took, way, workers

options("services")
luck = Luck()


def check_service_health(service_name, check_duration, is_healthy):
    """Simulate checking if a service is healthy."""
    say(f"Checking {service_name}...")
    time.sleep(check_duration)
    return {"service": service_name, "healthy": is_healthy, "response_time": check_duration, "timestamp": time.time()}


services = [("Database Server", 0.8), ("Web API", 0.5), ("Cache Service", 0.3), ("File Storage", 1.0), ("Email Service", 0.7)]
# repair: the health of each is drawn beforehand, with a seed, so that it can be checked (three times of four they are well, as in the lesson)
services = [(name, seconds(duration), luck.below(4) > 0) for name, duration in services]


def monitor_services():
    results = []
    with concurrent.futures.ThreadPoolExecutor(max_workers=workers(5)) as executor:
        # repair: this is called "submit and forget"; it forgets nothing, and waits for everything. It stays so here, since leaving the `with` waits anyway
        futures = [executor.submit(check_service_health, *service) for service in services]
        for future in concurrent.futures.as_completed(futures):
            result = future.result()
            results.append(result)
            say(f"  {result['service']}: {'HEALTHY' if result['healthy'] else 'UNHEALTHY'}")
    return results


took("the checks' own times, added", sum(duration for _, duration, _ in services))
results = way("threads, all at once", monitor_services)
check(sum(r["healthy"] for r in results) == sum(healthy for _, _, healthy in services), "not as many healthy as were planted")
