"""Prints the beat_schedule of a Celery application as JSON, for `longshore schedule import`."""

import datetime
import json
import sys


def field(crontab, name):
    said, expanded = getattr(crontab, "_orig_" + name), sorted(getattr(crontab, name))
    return {"said": str(said) if isinstance(said, (str, int)) else None, "values": expanded}


def timing(schedule):
    from celery import schedules

    if isinstance(schedule, (int, float)):
        return {"every": float(schedule)}
    if isinstance(schedule, datetime.timedelta):
        return {"every": schedule.total_seconds()}
    if isinstance(schedule, schedules.solar):
        return {"solar": f"{schedule.event} at {schedule.lat}, {schedule.lon}"}
    kind = type(schedule)
    # That of django-celery-beat has its zone, and a clock that shows it.
    is_aware = f"{kind.__module__}.{kind.__name__}" == "django_celery_beat.tzcrontab.TzAwareCrontab"
    if kind in (schedules.crontab, schedules.schedule) and schedule.nowfun is not None:
        return {"clock": getattr(schedule.nowfun, "__qualname__", repr(schedule.nowfun))}
    if kind is schedules.crontab or is_aware:
        names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        zone = getattr(schedule, "tz", None)
        return {"crontab": {name: field(schedule, name) for name in names}, "zone": str(zone) if zone else None}
    if kind is schedules.schedule:
        return {"every": schedule.run_every.total_seconds(), "relative": bool(schedule.relative)}
    return {"other": repr(schedule)}


def plain(value):
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    raise TypeError(f"{value!r} cannot be written as JSON")


def entry(said):
    get = said.get if isinstance(said, dict) else lambda name, default=None: getattr(said, name, default)
    found = {"task": get("task"), "schedule": timing(get("schedule"))}
    if get("relative"):
        found["schedule"]["relative"] = True
    try:
        for name, none in (("args", ()), ("kwargs", {}), ("options", {})):
            found[name] = json.loads(json.dumps(get(name) or none, default=plain))
    except (TypeError, ValueError) as error:
        found["wrong"] = str(error)
    return found


def main():
    from celery.app.utils import find_app

    sys.path.insert(0, "")
    app = find_app(sys.argv[1])
    app.loader.init_worker()
    app.finalize()
    beat = {str(name): entry(said) for name, said in app.conf.beat_schedule.items()}
    json.dump({"timezone": str(app.timezone), "beat_schedule": beat}, sys.stdout)


main()
