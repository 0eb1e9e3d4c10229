package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/auth"
	"github.com/coatcheck/coatcheck/internal/broker"
)

func (f *front) ticket(d api.Status, headers ...string) api.StreamTicket {
	f.t.Helper()
	a := f.post(d.Links.Self+"/stream-ticket", "", headers...)
	var ticket api.StreamTicket
	if err := json.Unmarshal(a.body, &ticket); err != nil || a.StatusCode != 200 || ticket.Ticket == "" {
		f.t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	return ticket
}

// TestTicketOpensItsStream as often as needed, until it expires.
func TestTicketOpensItsStream(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x", as("all"), "Coatcheck-Timeout: 1h")
		ticket := f.ticket(d, as("read"))
		if left := time.Until(time.Time(ticket.ExpiresAt)); left > 5*time.Minute || left < 4*time.Minute {
			t.Errorf("it lives for %v", left)
		}
		link := d.Links.Events + "?ticket=" + ticket.Ticket
		open := f.follow(link)
		f.wantEvents(open, "retry status")
		work := f.claim()
		f.send(work, progress("1"))
		f.wantEvents(f.follow(link), "retry status progress1")
		time.Sleep(4 * time.Minute)
		f.wantEvents(f.follow(link+"&last_event_id=1"), "retry status")
		time.Sleep(2 * time.Minute)
		if detail := f.get(link).problem(t, "unauthenticated"); !strings.Contains(detail, "ticket has expired") {
			t.Errorf("it says: %s", detail)
		}
		f.wantEvents(open, "status progress1 status") // who is in stays in; the lease has lapsed meanwhile
	}, withKeys)
}

// TestTicketOpensNothingElse.
func TestTicketOpensNothingElse(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d, other, foreign := f.submit("x", as("all")), f.submit("y", as("all")), f.submit("z", as("globex"))
		ticket := f.ticket(d, as("all")).Ticket
		f.call(http.MethodPost, d.Links.Cancel, nil, as("all"))
		query := "?ticket=" + ticket
		for _, path := range []string{other.Links.Events + query, foreign.Links.Events + query, "/v1/requests/xyz/events" + query, d.Links.Self + query, d.Links.Reply + query, "/v1/services" + query, "/metrics" + query} {
			f.get(path).problem(t, "unauthenticated")
		}
		f.call(http.MethodDelete, d.Links.Self+query, nil).problem(t, "unauthenticated")
		f.post(d.Links.Self+"/stream-ticket"+query, "").problem(t, "unauthenticated")
		forged := auth.Ticket([]byte("another secret"), d.CorrelationID, "acme", time.Now().Add(time.Hour))
		stolen := auth.Ticket(f.broker.Secret(), d.CorrelationID, "globex", time.Now().Add(time.Hour))
		for _, bad := range []string{forged, ticket[:len(ticket)-1], ticket + "A", strings.ToUpper(ticket), "1." + ticket, ".", "%00", "%ff", strings.Repeat("a", 20_000)} {
			f.get(d.Links.Events+"?ticket="+bad).problem(t, "unauthenticated")
			f.get(d.Links.Events+"?ticket="+bad, as("all")).problem(t, "unauthenticated") // no falling back
		}
		f.get(d.Links.Events+"?ticket="+stolen).problem(t, "not-found") // well signed, and still not globex' request
		if a := f.get(d.Links.Events + query); a.StatusCode != 200 {
			t.Errorf("the right one: %d %s", a.StatusCode, a.body)
		}
		if log := f.log.String(); strings.Contains(log, ticket) {
			t.Error("the ticket is in the log")
		}
	}, withKeys)
}

// TestTicketOfAnotherGateway: a stream that a drain closed is opened again
// elsewhere by the same ticket, and goes on.
func TestTicketOfAnotherGateway(t *testing.T) {
	inside(t, func(t *testing.T, f *front) {
		d := f.submit("x", as("all"))
		work := f.claim()
		f.send(work, progress("1"))
		query := "?ticket=" + f.ticket(d, as("read")).Ticket
		here := f.follow(d.Links.Events + query)
		f.wantEvents(here, "retry status progress1")
		f.server.Drain()
		f.hub.Drain()
		f.wantEvents(here, "end")
		stop := f.open(withKeys)
		defer stop()
		settled()
		there := f.follow(d.Links.Events+query, "Last-Event-ID: 1")
		f.wantEvents(there, "retry status")
		f.send(work, broker.WorkerReply{Type: "final"})
		f.wantEvents(there, "outcome2 end")
	}, withKeys)
}
