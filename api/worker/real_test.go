package worker_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/api/worker"
	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
	"github.com/coatcheck/coatcheck/internal/steward"
)

// The same over sockets: two workers share the requests, each gets its own
// reply, one that nobody hears of again is taken over, and a cancel arrives.
func TestOverSockets(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redistest.Redis) {
		b, err := broker.Open(t.Context(), broker.Options{
			URL: r.URL, Logger: quiet, Partitions: 2, Services: map[string]broker.ServiceConfig{"echo": {Lease: time.Second}, "wait": {}},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		s := steward.New(b, quiet)
		running.Go(func() { b.Run(ctx) })
		running.Go(func() { s.Run(ctx) })

		submit := func(service, body string) broker.Record {
			t.Helper()
			r, _, err := b.Submit(t.Context(), broker.Submission{Tenant: broker.DefaultTenant, Service: service, Body: []byte(body)})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		lost := submit("echo", "lost") // taken by somebody who dies
		if got, err := b.Claim(t.Context(), "dead", []string{"echo"}, 2, time.Second); err != nil || len(got) != 1 {
			t.Fatalf("claim: %v, %v", got, err)
		}
		began, causes := make(chan struct{}, 1), make(chan error, 1)
		for i := range 2 {
			w := worker.New(r.URL, worker.Name(fmt.Sprint("w", i)), worker.Logger(quiet), worker.Concurrency(8))
			w.Handle("echo", func(_ context.Context, r *worker.Request) (worker.Reply, error) {
				return worker.Reply{Body: r.Body}, nil
			}, worker.Lease(time.Second))
			w.Handle("wait", func(ctx context.Context, _ *worker.Request) (worker.Reply, error) {
				began <- struct{}{}
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return worker.Reply{}, ctx.Err()
			})
			running.Go(func() { w.Run(ctx) })
		}
		var all []broker.Record
		for i := range 100 {
			all = append(all, submit("echo", fmt.Sprint("body ", i)))
		}
		for i, r := range all {
			got := await(t, b, r)
			if got.Status != broker.Succeeded || string(got.Reply.Body) != fmt.Sprint("body ", i) {
				t.Errorf("%s, %+v", got.Status, got.Reply)
			}
		}
		if got := await(t, b, lost); got.Status != broker.Succeeded || got.Attempt != 2 {
			t.Errorf("of the dead worker: %s, attempt %d", got.Status, got.Attempt)
		}
		waiting := submit("wait", "")
		<-began
		if _, err := b.Cancel(t.Context(), waiting.ID); err != nil {
			t.Fatal(err)
		}
		if cause := <-causes; !errors.Is(cause, worker.ErrCanceled) {
			t.Errorf("cause %v", cause)
		}
		stop()
		running.Wait()
	})
}

// await polls: what is waited for happens in Redis.
func await(t *testing.T, b *broker.Broker, r broker.Record) broker.Record {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < 20*time.Second; {
		got, err := b.Status(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status.Terminal() {
			return got
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatal("no outcome")
	return r
}

// Who imports this package can't import internal ones: nothing exported may
// mention them.
func TestExportsNoInternalType(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	refuse := func(name string, types ast.Node) {
		seen++
		ast.Inspect(types, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && fmt.Sprint(s.X) == "broker" {
				t.Errorf("%s mentions broker.%s", name, s.Sel.Name)
			}
			return true
		})
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() {
					refuse(d.Name.Name, d.Type)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					if spec, ok := s.(*ast.TypeSpec); ok && spec.Name.IsExported() {
						exportedOf(spec.Type, func(n ast.Node) { refuse(spec.Name.Name, n) })
					}
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d exported things were looked at", seen)
	}
}

// exportedOf visits what of a type others see.
func exportedOf(e ast.Expr, visit func(ast.Node)) {
	s, ok := e.(*ast.StructType)
	if !ok {
		visit(e)
		return
	}
	for _, f := range s.Fields.List {
		for _, name := range f.Names {
			if name.IsExported() {
				visit(f.Type)
			}
		}
	}
}
