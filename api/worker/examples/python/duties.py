"""What a conformance run asks of a worker; put your own work in its place."""
import json

def handle(job, say, canceled):
    """Returns the last reply of a request; what it raises is a failure. say sends an event."""
    ask = json.loads(job[b"body"]) if job[b"body"].startswith(b'{"do":') else {"do": "echo"}
    for step in (1, 2, 3) if ask["do"] == "progress" else ():
        say(type="progress", content_type="application/json", body=json.dumps({"step": step}))
    for part in ("one", "two", "three") if ask["do"] == "partial" else ():
        say(type="partial", content_type="text/plain", body=part)
    if ask["do"] == "fail":
        raise ValueError(ask["reason"])
    if ask["do"] == "retry" and job[b"attempt"] == b"1":
        return {"type": "retry", "error": "not now", "delay": 1}
    canceled.wait(ask.get("ms", 0) / 1000)
    body = job[b"body"] if ask["do"] == "echo" else b"attempt " + job[b"attempt"]
    return {"type": "final", "content_type": job[b"content_type"], "body": body}
