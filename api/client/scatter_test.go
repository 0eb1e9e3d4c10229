package client_test

import (
	"encoding/json"
	"testing"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/api/client"
)

// TestScatterBodies: a service whose body is not named gets that of all, which may be
// empty, and a body for a service that is mistyped is not lost in silence.
func TestScatterBodies(t *testing.T) {
	address, stop := house()
	t.Cleanup(stop)
	c := client.New(address)
	s, err := c.Scatter(t.Context(), []string{"echo", "nobody"}, client.Scatter{
		Request: client.Request{ContentType: "text/plain"}, Bodies: map[string][]byte{"nobody": []byte("own")}, MinReplies: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s, err = c.Wait(t.Context(), s.CorrelationID); err != nil || s.Status != api.Succeeded {
		t.Fatalf("%+v, %v", s, err)
	}
	var set api.GatheredReplies
	if err := json.Unmarshal(s.Reply.Body, &set); err != nil || string(set.Replies[0].Body) != `""` || set.Replies[0].ContentType != "text/plain" {
		t.Errorf("%s, %v", s.Reply.Body, err)
	}
	if s, err := c.Scatter(t.Context(), []string{"echo", "nobody"}, client.Scatter{Bodies: map[string][]byte{"nobdy": nil}}); err == nil {
		t.Errorf("a body for nobdy made %+v", s)
	}
}
