package bench

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// verdict is what a status document says of a reply.
type verdict int

const (
	pending    verdict = iota // there is no outcome yet
	rightReply                // it succeeded, with the bytes that were sent
	wrongReply                // it succeeded with other bytes, or it is another's
	noSuccess                 // failed, timed out or canceled
	linked                    // it succeeded, and the reply is too large to stand in the document
)

// judge reads a status document as far as a check needs it. It decodes nothing where
// the reply has its bytes: that would cost more than all the rest of a request.
func judge(document []byte, id string, body []byte) verdict {
	if string(field(document, "correlation_id")) != id {
		return wrongReply
	}
	switch string(field(document, "status")) {
	case "scheduled", "queued", "running":
		return pending
	case "succeeded":
		if bytes.Contains(document, body) {
			return rightReply
		}
		at := bytes.Index(document, []byte(`"reply":{`)) // not that of the links, which is a text
		switch {
		case at < 0:
		case !bytes.Contains(document[at:], []byte(`"body":`)):
			return linked
		case bytes.Equal(decoded(document[at+len(`"reply":`):]), body):
			return rightReply
		}
		return wrongReply
	case "failed", "timed_out", "canceled":
		return noSuccess
	}
	return wrongReply
}

// decoded is the body of a reply whose worker did not say that it is JSON.
func decoded(reply []byte) []byte {
	var r struct{ Encoding, Body string }
	if json.NewDecoder(bytes.NewReader(reply)).Decode(&r) != nil {
		return nil
	}
	if r.Encoding == "base64" {
		body, _ := base64.StdEncoding.DecodeString(r.Body)
		return body
	}
	return []byte(r.Body)
}

// progress is how far a request is, so that what comes later can be compared:
// the attempt, and within it queued, running, ended.
func progress(document []byte) (attempt, step int) {
	attempt, _ = strconv.Atoi(string(field(document, "attempt")))
	switch string(field(document, "status")) {
	case "scheduled", "queued":
	case "running":
		step = 1
	default:
		step = 2
	}
	return attempt, step
}

// field is the first value of that name, without its quotes.
func field(document []byte, name string) []byte {
	at := bytes.Index(document, []byte(`"`+name+`":`))
	if at < 0 {
		return nil
	}
	value := document[at+len(name)+3:]
	if len(value) > 0 && value[0] == '"' {
		value = value[1:]
		return value[:max(0, bytes.IndexByte(value, '"'))]
	}
	end := bytes.IndexAny(value, ",}")
	return value[:max(0, end)]
}
