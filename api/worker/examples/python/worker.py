"""A worker in Python: python3 worker.py SERVICE, with the Redis of the gateways in REDIS_URL."""
import contextlib, itertools, os, signal, sys, threading, time, uuid, redis
from duties import handle

service, me = sys.argv[1], "python-" + uuid.uuid4().hex
r = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://127.0.0.1:6379"))
stopping, running = threading.Event(), {}  # running: ID -> event that a cancel sets

def announce():  # and make the streams, of as many partitions as there are
    r.hsetnx("cc:services", service, "{}")
    tags = (r.hget("cc:config", "tags") or b"0").decode().split(",")
    streams = {"cc:{%s}:queue:%s" % (tag, service): ">" for tag in tags}
    for stream in streams:
        with contextlib.suppress(redis.ResponseError):  # BUSYGROUP: it is there already
            r.xgroup_create(stream, "workers", id="0", mkstream=True)
    return streams

def listen():  # to cancels; who misses one only works in vain
    while not stopping.wait(0.5):
        with contextlib.suppress(redis.RedisError), r.pubsub() as p:
            p.subscribe("cc:cancel:" + service)
            for m in p.listen():
                running.get(m["data"], threading.Event()).set()

def send(job, **reply):  # tried again while Redis is away or full: a reply that comes twice does no harm
    while time.time() < int(job[b"deadline"]) / 1000:
        with contextlib.suppress(redis.RedisError):
            return r.xadd(job[b"reply_to"], {"token": job[b"token"], **reply})
        time.sleep(0.25)

def work(job):
    done, canceled, seq = threading.Event(), threading.Event(), itertools.count(1)
    running[job[b"id"]] = canceled
    def beat():
        while not done.wait(int(job[b"lease"]) / 3000):  # a third of the lease, which is in ms
            send(job, type="heartbeat")
    threading.Thread(target=beat, daemon=True).start()
    try:
        reply = handle(job, lambda **event: send(job, seq=next(seq), **event), canceled)
    except Exception as e:
        reply = {"type": "failed", "error": str(e)}
    done.set()
    if not canceled.is_set():  # else nobody wants it
        send(job, seq=next(seq), **reply)
    running.pop(job[b"id"], None)

signal.signal(signal.SIGTERM, lambda *_: stopping.set())
threading.Thread(target=listen, daemon=True).start()
read = None
while not stopping.is_set():  # what was claimed is finished, also after SIGTERM
    try:
        if not read or time.monotonic() - read > 10:  # partitions may be added
            streams, read = announce(), time.monotonic()
        claimed = [job for _, jobs in r.xreadgroup("workers", me, streams, count=1, block=1000) or [] for _, job in jobs]
    except redis.RedisError as e:  # NOGROUP where Redis lost its data, a restart: announce anew
        print(e, file=sys.stderr)
        read, claimed = stopping.wait(1), []
    threads = [threading.Thread(target=work, args=(job,)) for job in claimed]  # one a partition at most
    [t.start() for t in threads] and [t.join() for t in threads]
