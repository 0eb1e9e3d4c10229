package api

// Header names of the contract beyond the standard ones that net/http knows.
const (
	HeaderCorrelationID       = "X-Correlation-Id"   // spelled as Go writes it; names of headers have no case
	HeaderPrefer              = "Prefer"             // RFC 7240
	HeaderPreferenceApplied   = "Preference-Applied" // RFC 7240
	HeaderIdempotencyKey      = "Idempotency-Key"
	HeaderIdempotencyReplayed = "Idempotency-Replayed"
	HeaderLastEventID         = "Last-Event-ID" // WHATWG HTML, server-sent events
	HeaderTraceparent         = "Traceparent"   // W3C Trace Context

	HeaderCache = "Coatcheck-Cache" // on an answer: hit, shared or miss

	// HeaderOutcome is on a worker's own reply and on nothing else: its bytes may
	// look like a status or a problem of the gateway.
	HeaderOutcome = "Coatcheck-Outcome"

	OptionPrefix         = "Coatcheck-"
	HeaderTimeout        = OptionPrefix + "Timeout"
	HeaderStartTimeout   = OptionPrefix + "Start-Timeout"
	HeaderRunTimeout     = OptionPrefix + "Run-Timeout"
	HeaderRetention      = OptionPrefix + "Retention"
	HeaderMaxAttempts    = OptionPrefix + "Max-Attempts"
	HeaderBackoff        = OptionPrefix + "Backoff"
	HeaderDelay          = OptionPrefix + "Delay"
	HeaderPriority       = OptionPrefix + "Priority"
	HeaderOrderingKey    = OptionPrefix + "Ordering-Key"
	HeaderConcurrencyKey = OptionPrefix + "Concurrency-Key"
	HeaderCallbackURL    = OptionPrefix + "Callback-Url"
	HeaderCallbackEvents = OptionPrefix + "Callback-Events"
	HeaderTag            = OptionPrefix + "Tag"
)

// What is about a claim in its raw form.
const (
	HeaderClaim            = OptionPrefix + "Claim"
	HeaderClaimService     = OptionPrefix + "Service"
	HeaderClaimAttempt     = OptionPrefix + "Attempt"
	HeaderClaimDeadline    = OptionPrefix + "Deadline"
	HeaderClaimLease       = OptionPrefix + "Lease"
	HeaderClaimContentType = OptionPrefix + "Content-Type"
	HeaderClaimForwarded   = OptionPrefix + "Header-" // + name
)

// ReplyOptions are the options of a worker's reply, by their query parameter.
// Another Coatcheck- header on a reply is an error, as another parameter is.
var ReplyOptions = map[string]string{
	"type":        OptionPrefix + "Reply-Type",
	"seq":         OptionPrefix + "Seq",
	"delay":       OptionPrefix + "Delay",
	"status_code": OptionPrefix + "Status-Code",
	"error":       OptionPrefix + "Error",
	"error_code":  OptionPrefix + "Error-Code",
	"cache_ttl":   OptionPrefix + "Cache-Ttl",
}

// Options are the option headers that a submit takes. Another Coatcheck-
// header is an error: a typing mistake must not pass in silence.
var Options = []string{
	HeaderTimeout, HeaderStartTimeout, HeaderRunTimeout, HeaderRetention,
	HeaderMaxAttempts, HeaderBackoff, HeaderDelay, HeaderPriority, HeaderOrderingKey, HeaderConcurrencyKey,
	HeaderCallbackURL, HeaderCallbackEvents, HeaderTag,
}

// CallbackEventNames are what a client may be told of.
var CallbackEventNames = []string{"succeeded", "failed", "timed_out", "canceled", "progress"}

// The target of a request below its service travels to the worker among the
// forwarded headers, named as HTTP/2 does (RFC 9113, section 8.3.1). No client can
// send a header of such a name.
const (
	TargetMethod = ":method"
	TargetPath   = ":path" // below the service, with its query; "" for neither
)
