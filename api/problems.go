package api

// Problems is the registry of everything that can go wrong, in the order of
// the HTTP status. Types are stable: clients branch on them.
var Problems = []ProblemType{
	{
		Slug: "invalid-option", Status: 400, Title: "An option of the request is not valid", Retry: false,
		Meaning: "A header or query parameter has a value that is not allowed. The detail names it and what is allowed. Nothing was accepted; correct the call and send it again.",
	},
	{
		Slug: "invalid-request", Status: 400, Title: "The request cannot be read", Retry: false,
		Meaning: "The request is not well formed, for example its body ended before its stated length. Nothing was accepted.",
	},
	{
		Slug: "callback-refused", Status: 400, Title: "The callback URL is refused", Retry: false,
		Meaning: "The callback URL is no http or https URL, or points at an address that this gateway does not call. Nothing was accepted. The operator allows private networks with callbacks.allow_cidrs.",
	},
	{
		Slug: "unauthenticated", Status: 401, Title: "An API key is needed", Retry: false,
		Meaning: "The call carries no API key, or one that is not known. Send it as Authorization: Bearer KEY.",
	},
	{
		Slug: "forbidden", Status: 403, Title: "The API key does not allow this", Retry: false,
		Meaning: "The API key lacks the scope that this call needs. The detail names it.",
	},
	{
		Slug: "not-found", Status: 404, Title: "No such request", Retry: false,
		Meaning: "This correlation ID was never issued to you. Check that it is complete, and that the API key is of the tenant that submitted.",
	},
	{
		Slug: "unknown-service", Status: 404, Title: "No such service", Retry: false,
		Meaning: "No worker ever announced this service and no configuration names it, so nothing would answer. Nothing was accepted. A worker that starts makes its service known within a second.",
	},
	{
		Slug: "unknown-worker", Status: 404, Title: "No such worker", Retry: false,
		Meaning: "No live worker has this name, so nothing was told to drain. GET /v1/workers lists those that are alive; a worker that ended is gone from it within 15 seconds.",
	},
	{
		Slug: "no-such-route", Status: 404, Title: "No such path", Retry: false,
		Meaning: "The gateway serves nothing at this path. See /openapi.yaml for what it serves.",
	},
	{
		Slug: "unknown-claim", Status: 404, Title: "No such claim", Retry: false,
		Meaning: "This token is not one of a claim. Nothing was taken. Send it as it came with the claim; if it did come so, claim anew.",
	},
	{
		Slug: "method-not-allowed", Status: 405, Title: "The method does not fit the path", Retry: false,
		Meaning: "The path exists, but not for this method. Nothing was done; the detail and the header Allow name the methods that it has.",
	},
	{
		Slug: "body-timeout", Status: 408, Title: "The body came too slowly", Retry: true,
		Meaning: "The body was not complete within 30 seconds. Nothing was accepted; send it again.",
	},
	{
		Slug: "already-terminal", Status: 409, Title: "The request has its outcome already", Retry: false,
		Meaning: "The request ended before it could be canceled. Its outcome stands and does not change.",
	},
	{
		Slug: "claim-lost", Status: 409, Title: "The claim is no longer held", Retry: false,
		Meaning: "The request has its outcome, or another attempt at it has begun, for example because its lease ended without a sign of life. The reply was not taken and none would be. Stop the work and claim anew.",
	},
	{
		Slug: "not-dead", Status: 409, Title: "The request is no dead letter", Retry: false,
		Meaning: "Only a request that failed or timed out is redriven, and no scatter, which keeps no body of its own. This one is open, succeeded or was canceled, or is a scatter; the detail says which. Nothing was accepted; submit it anew if it shall run again.",
	},
	{
		Slug: "canceled", Status: 409, Title: "The request was canceled", Retry: false,
		Meaning: "The request was canceled, so there is no reply and there will be none.",
	},
	{
		Slug: "gone", Status: 410, Title: "The request is gone", Retry: false,
		Meaning: "The request was accepted once and has been forgotten: its retention ended, it was deleted, or Redis lost its data.",
	},
	{
		Slug: "body-too-large", Status: 413, Title: "The body is too large", Retry: false,
		Meaning: "The body is larger than this gateway takes. Nothing was accepted.",
	},
	{
		Slug: "idempotency-mismatch", Status: 422, Title: "The idempotency key was used with another payload", Retry: false,
		Meaning: "A request with this Idempotency-Key and another payload was accepted before. This one was not, and nothing will run for it; use a new key for a new request.",
	},
	{
		Slug: "body-refused", Status: 422, Title: "The service does not take this body", Retry: false,
		Meaning: "An interceptor of the service, such as its JSON Schema, refuses the body. Nothing was accepted; correct it and send it again. The errors name the places by JSON Pointers.",
	},
	{
		Slug: "queue-full", Status: 429, Title: "The queue of the service is full", Retry: true,
		Meaning: "The service has as many open requests as it may have. Nothing was accepted; try again after Retry-After.",
	},
	{
		Slug: "internal", Status: 500, Title: "The gateway made a mistake", Retry: true,
		Meaning: "Something went wrong inside the gateway; it is in its log. For a submit it is unknown whether it was accepted: repeat it with the same Idempotency-Key.",
	},
	{
		Slug: "reply-failed", Status: 502, Title: "The request failed", Retry: false,
		Meaning: "The worker reported a failure, or all attempts are used up, and left no reply of its own. The status document has the error. That outcome is final; POST /v1/requests/{id}/retry makes a new request of the same body.",
	},
	{
		Slug: "unavailable", Status: 503, Title: "Redis cannot be asked now", Retry: true,
		Meaning: "The gateway cannot reach Redis. A submit was not accepted and nothing will run, a cancel, a delete or a reply of a worker was not taken; whether a request exists cannot be told now. Try again after Retry-After.",
	},
	{
		Slug: "not-durable", Status: 503, Title: "Redis does not keep requests as it should", Retry: true,
		Meaning: "What is accepted would not be kept as the operator demands: Redis is set up in another way, or too few of its replicas follow. /readyz says what to do. Nothing was accepted; try again after Retry-After.",
	},
	{
		Slug: "memory-full", Status: 503, Title: "There is no room for new requests", Retry: true,
		Meaning: "Redis or the gateway is close to its memory limit and keeps the rest for replies to accepted work. Nothing was accepted; try again after Retry-After.",
	},
	{
		Slug: "interceptor-failed", Status: 503, Title: "The request could not be looked at", Retry: true,
		Meaning: "An interceptor of the service, which looks at requests before they are queued, is too slow or broken. Nothing was accepted; try again after Retry-After, and if it stays so tell the operator: it is in the log.",
	},
	{
		Slug: "draining", Status: 503, Title: "The gateway is shutting down", Retry: true,
		Meaning: "This gateway is about to stop. Nothing was accepted; another one, or the same after its restart, will take the call.",
	},
	{
		Slug: "timed-out", Status: 504, Title: "The request timed out", Retry: false,
		Meaning: "The request got no outcome in time. The reason in the status document names the clock: start, run or total.",
	},
	{
		Slug: "not-cached", Status: 504, Title: "No cached reply fits", Retry: false,
		Meaning: "Cache-Control allowed a cached reply only (only-if-cached), and the service has none for this request. Nothing was accepted; without only-if-cached a worker answers.",
	},
	{
		Slug: "effect-unknown", Status: 504, Title: "It is unknown whether the call had its effect", Retry: true,
		Meaning: "The connection to Redis broke after the call was passed on, or too few replicas of it have confirmed the call. Repeat it: a submit with the same Idempotency-Key returns the same correlation ID or accepts it once; a cancel or delete does no harm a second time.",
	},
}
