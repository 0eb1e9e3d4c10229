package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// Hand a request in, wait for its outcome, collect the reply.
func Example() {
	address, stop := house() // a gateway, as `coatcheck dev` runs one
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client.New(address)
	s, err := c.Submit(ctx, "echo", client.Request{ContentType: "text/plain", Body: []byte("hi")})
	if err != nil {
		log.Fatal(err)
	}
	s, err = c.Wait(ctx, s.CorrelationID)
	if err != nil {
		log.Fatal(err)
	}
	reply, err := c.Reply(ctx, s.CorrelationID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Status, reply.StatusCode, reply.ContentType, string(reply.Body))
	// Output: succeeded 200 text/plain hi
}

// Follow a request while it runs; broken connections are resumed.
func ExampleClient_Events() {
	address, stop := house()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := client.New(address)
	s, err := c.Submit(ctx, "progress", client.Request{ContentType: "application/json", Body: []byte(`{"steps":2,"interval":"10ms"}`)})
	if err != nil {
		log.Fatal(err)
	}
	for e, err := range c.Events(ctx, s.CorrelationID) {
		if err != nil {
			log.Fatal(err)
		}
		switch e.Kind {
		case "progress":
			fmt.Println(e.Event.Number, string(e.Event.Body))
		case "outcome":
			fmt.Println(e.Status.Status, string(e.Status.Reply.Body))
		}
	}
	// Output:
	// 1 {"percent":50,"step":1,"steps":2}
	// 2 {"percent":100,"step":2,"steps":2}
	// succeeded {"steps":2}
}

// The same key gives the same request, however often it is submitted.
func ExampleClient_Submit_idempotent() {
	address, stop := house()
	defer stop()

	ctx := context.Background()
	c := client.New(address)
	order := client.Request{Body: []byte("order 4711"), IdempotencyKey: "order-4711"}
	first, err := c.Submit(ctx, "echo", order)
	if err != nil {
		log.Fatal(err)
	}
	second, err := c.Submit(ctx, "echo", order)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(first.CorrelationID == second.CorrelationID)

	order.Body = []byte("order 4712")
	_, err = c.Submit(ctx, "echo", order)
	if p, ok := errors.AsType[api.Problem](err); ok {
		fmt.Println(p.Type)
	}
	// Output:
	// true
	// /problems/idempotency-mismatch
}

// A request that failed is no error of Wait: the status says how it ended.
func ExampleClient_Wait() {
	address, stop := house()
	defer stop()

	ctx := context.Background()
	c := client.New(address)
	s, err := c.Submit(ctx, "fail", client.Request{ContentType: "application/json", Body: []byte(`{"message":"out of paper"}`)})
	if err != nil {
		log.Fatal(err)
	}
	s, err = c.Wait(ctx, s.CorrelationID)
	fmt.Println(s.Status, s.Error.Message, err)
	// Output: failed out of paper <nil>
}
