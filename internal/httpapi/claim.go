package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/munnerz/goautoneg"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/span"
)

const (
	mostClaims      = 100     // of one call; who can take more calls more often
	maxClaimOptions = 4 << 10 // bytes of the body of a claim
	jsonForm        = "application/json"
	rawForm         = "application/octet-stream"

	giveBackWithin = 2 * time.Second
)

// claim hands work to a worker that can't reach Redis.
func (s *Server) claim(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return failure{slug: "draining", detail: "This gateway is about to stop and hands out no more work. Nothing was claimed; another one, or the same after its restart, will take the call."}
	}
	n, prefer, err := s.claimOptions(w, r)
	if err != nil {
		return err
	}
	form := goautoneg.Negotiate(strings.Join(r.Header.Values("Accept"), ","), []string{jsonForm, rawForm})
	if form == rawForm && n > 1 {
		return fail("invalid-option", "max is %d, but %s has room for one claim. Nothing was claimed; ask for %s, or for one.", n, rawForm, jsonForm)
	}
	service := param(r, "service")
	if err := s.announce(r.Context(), service); err != nil {
		return err
	}
	got, err := s.Pull.Claim(r.Context(), service, n, prefer.wait)
	if err != nil {
		return err
	}
	if prefer.applied != "" {
		w.Header().Set(api.HeaderPreferenceApplied, prefer.applied)
	}
	if len(got) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return s.handOut(w, r, got, form)
}

// claimOptions reads how many a worker can take and how long it waits: the
// query before the body, and for the wait both before Prefer.
func (s *Server) claimOptions(w http.ResponseWriter, r *http.Request) (n int, prefer preference, err error) {
	share := memory{server: s}
	defer share.release()
	body, err := s.body(w, r, &share)
	if err != nil {
		return 0, prefer, err
	}
	if len(body) > maxClaimOptions {
		return 0, prefer, fail("body-too-large", "The body of a claim has %d bytes; %d are enough for its options. Nothing was claimed.", len(body), maxClaimOptions)
	}
	options := api.ClaimOptions{Max: 1}
	if len(bytes.TrimSpace(body)) > 0 {
		strict := json.NewDecoder(bytes.NewReader(body))
		strict.DisallowUnknownFields()
		if strict.Decode(&options) != nil || strict.More() {
			return 0, prefer, fail("invalid-request", `The body must be a JSON object such as {"max":10,"wait":"30s"}, or empty. Nothing was claimed.`)
		}
	}
	text, err := query(r, "max")
	if err != nil {
		return 0, prefer, err
	}
	if text != "" {
		options.Max, err = strconv.Atoi(text)
	}
	if err != nil || options.Max < 1 || options.Max > mostClaims {
		return 0, prefer, fail("invalid-option", "max must be a number from 1 to %d. Nothing was claimed.", mostClaims)
	}
	if prefer, err = waitOf(r); err != nil || options.Wait == "" || r.URL.Query().Get("wait") != "" {
		return options.Max, prefer, err
	}
	d, ok := parseDuration(options.Wait)
	if !ok {
		return 0, prefer, fail("invalid-option", "wait is %s; it must be a duration such as 10s, or whole seconds; more than %s counts as that. Nothing was claimed.", quoted(options.Wait), span.Text(longestWait))
	}
	return options.Max, preference{wait: min(d, longestWait)}, nil
}

// announce makes a service known by whoever works for it.
func (s *Server) announce(ctx context.Context, service string) error {
	if !api.ValidService(service) {
		return fail("unknown-service", "%s can't be the name of a service: want %s. Nothing was claimed.", quoted(service), api.ServiceNames)
	}
	known, err := s.Broker.KnowsService(ctx, service)
	if err != nil || known {
		return err
	}
	return s.Broker.Announce(ctx, map[string]broker.Announcement{service: {}})
}

// handOut writes what is held for a client. Where the client has left before the
// handover, the work goes back as if nobody had asked; where the
// writing fails it may have the token and begin, so its attempt is over and another
// one follows.
func (s *Server) handOut(w http.ResponseWriter, r *http.Request, held []broker.Delivery, form string) error {
	size := 0
	for _, d := range held {
		size += len(d.Body)
	}
	share := memory{server: s}
	defer share.release()
	got, err := held, share.grow(r.Context(), min(int64(size), s.Inflight))
	if err == nil {
		err = r.Context().Err()
	}
	if err == nil { // not the client's context: half a handover would be nobody's
		ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), submitTimeout)
		defer stop()
		got, err = s.Broker.Entrust(ctx, held)
	}
	if err != nil {
		s.Pull.Back(held)
		return err
	}
	if len(got) == 0 { // all of it was canceled, or its service paused, while it was held
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	h := w.Header()
	body := got[0].Body
	if form == rawForm {
		describeClaim(h, got[0])
	} else {
		list := api.ClaimList{}
		for _, d := range got {
			list.Claims = append(list.Claims, broker.ClaimDocument(d, s.PublicURL))
		}
		if body, err = broker.EncodeJSON(list); err != nil {
			s.giveBack(r, got, err)
			return err
		}
		h.Set("Content-Type", jsonForm)
	}
	if len(got) == 1 {
		callOf(r).id = got[0].ID
		h.Set(api.HeaderCorrelationID, got[0].ID)
	}
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout + time.Duration(len(body)/replyFloor)*time.Second))
	w.WriteHeader(http.StatusOK)
	if _, err = w.Write(body); err == nil {
		err = control.Flush()
	}
	if err != nil {
		s.giveBack(r, got, err)
		return nil
	}
	_ = control.SetWriteDeadline(time.Time{}) // the connection goes on to other calls
	return nil
}

// describeClaim says in headers what JSON says beside the body.
func describeClaim(h http.Header, d broker.Delivery) {
	h.Set("Content-Type", rawForm)
	h.Set(api.HeaderClaim, broker.ClaimToken(d))
	h.Set(api.HeaderClaimService, d.Service)
	h.Set(api.HeaderClaimAttempt, strconv.Itoa(d.Attempt))
	h.Set(api.HeaderClaimDeadline, api.Time(d.Deadline).String())
	h.Set(api.HeaderClaimLease, strconv.FormatFloat(d.Lease.Seconds(), 'f', -1, 64))
	set := func(name, value string) {
		if value != "" && !unfit(value) { // a client's words, perhaps put into Redis by somebody else
			h.Set(name, value)
		}
	}
	set(api.HeaderClaimContentType, d.ContentType)
	set(api.HeaderTraceparent, d.Traceparent)
	for name, value := range d.Headers {
		set(api.HeaderClaimForwarded+strings.TrimPrefix(name, ":"), value) // net/http leaves out what can't be a name
	}
}

// giveBack ends the attempts that a client may or may not have heard of.
func (s *Server) giveBack(r *http.Request, got []broker.Delivery, cause error) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), giveBackWithin)
	defer stop()
	for _, d := range got {
		log := s.Logger.With("correlation_id", d.ID, "service", d.Service, "attempt", d.Attempt)
		err := s.Broker.Send(ctx, d, broker.WorkerReply{
			Type: "retry", Delay: time.Millisecond,
			Error: &broker.Error{Message: "The worker hung up before it had the whole request."},
		})
		if err != nil {
			log.Warn("a claim that did not arrive was not given back; its lease will lapse", "error", err)
			continue
		}
		log.Debug("a claim did not arrive; another attempt follows", "error", cause)
	}
}
