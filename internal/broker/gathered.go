package broker

import "github.com/coatcheck/coatcheck/api"

// gathered is the reply of a scatter that has its outcome: nil where it timed out or
// was canceled, or none was wanted. Its body is written here, from the records of the legs, which do not
// change any more: so poll, stream and callback show the same bytes, and Redis keeps
// each answer once. Without the bodies of the legs it has none.
func gathered(r Record) *Reply {
	if r.Minimal {
		return nil
	}
	reply := &Reply{ContentType: "application/json", StatusCode: 200}
	switch r.Status {
	case Succeeded:
	case Failed:
		reply.StatusCode = 502
	default:
		return nil
	}
	set := api.GatheredReplies{MinReplies: r.MinReplies, Succeeded: r.succeeded(), Replies: []api.GatheredReply{}}
	whole := true
	for _, l := range r.Legs {
		one := api.GatheredReply{Service: l.Service, Status: api.StatusStatus(l.Status), Reason: l.Reason}
		if l.Error != nil {
			one.Error = api.Error{Code: l.Error.Code, Message: l.Error.Message}
		}
		if l.Reply != nil {
			reply.Size += l.Reply.Size
			whole = whole && len(l.Reply.Body) == l.Reply.Size
			one.StatusCode, one.ContentType = l.Reply.StatusCode, validText(l.Reply.ContentType)
			encoding, body := encodeBody(l.Reply.ContentType, l.Reply.Body)
			one.Encoding, one.Body = api.GatheredReplyEncoding(encoding), body
		}
		set.Replies = append(set.Replies, one)
	}
	if whole {
		reply.Body, _ = EncodeJSON(set) // of strings, numbers and JSON that was found valid: it always can be
	}
	return reply
}

func (r Record) succeeded() (n int) {
	for _, l := range r.Legs {
		if l.Status == Succeeded {
			n++
		}
	}
	return n
}

// legs are those of a scatter as the wire has them.
func legs(r Record) []api.Leg {
	list := make([]api.Leg, len(r.Legs))
	for i, l := range r.Legs {
		list[i] = api.Leg{
			Service: l.Service, Status: api.StatusStatus(l.Status), Reason: l.Reason, Attempt: l.Attempt, Worker: l.Worker,
			StartedAt: api.Time(l.Started), FinishedAt: api.Time(l.Finished),
		}
		if l.Error != nil {
			list[i].Error = api.Error{Code: l.Error.Code, Message: l.Error.Message}
		}
	}
	return list
}
