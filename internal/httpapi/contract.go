package httpapi

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"

	"github.com/coatcheck/coatcheck/api"
	"github.com/coatcheck/coatcheck/internal/broker"
)

// The schemas of a service, beside those of the contract.
const (
	requestSchema = "ServiceRequest"
	replySchema   = "ServiceReply"
)

// ofOneService are the operations that the document of a service has.
var ofOneService = []struct{ path, method string }{
	{"/v1/services/{service}/requests", "post"},
	{"/v1/requests/{id}", "get"},
	{"/v1/requests/{id}/reply", "get"},
}

// contract is openapi.yaml as it is, which the document of a service is cut from:
// so it has every option and every problem that the gateway has.
var contract = sync.OnceValues(func() (object, error) {
	var all object
	err := yaml.Unmarshal(api.Contract, &all)
	return all, err
})

type object = map[string]any

// serviceContract is the OpenAPI document of one service.
func (s *Server) serviceContract(w http.ResponseWriter, r *http.Request) error {
	name, err := s.knownService(r)
	if err != nil {
		return err
	}
	said, err := s.Broker.Describe(r.Context(), name)
	if err != nil {
		return err
	}
	workers, err := s.Broker.WorkersOf(r.Context(), name)
	if err != nil {
		return err
	}
	version := ""
	for _, worker := range workers {
		version = cmp.Or(version, worker.Version)
	}
	document, err := cut(name, cmp.Or(version, "1"), s.PublicURL, said)
	if err != nil {
		return fmt.Errorf("cut the document of a service: %w", err)
	}
	s.writeJSON(w, r, http.StatusOK, document)
	return nil
}

// cut takes what concerns one service out of the contract, and puts its own
// schemas in.
func cut(service, version, publicURL string, said broker.Description) (object, error) {
	all, err := contract()
	if err != nil {
		return nil, err
	}
	info := object{"title": service, "version": version}
	if said.Description != "" {
		info["description"] = said.Description
	}
	paths, components := object{}, object{}
	for _, o := range ofOneService {
		item := copied(all["paths"].(object)[o.path]).(object)
		kept := object{o.method: item[o.method]}
		parameters := append(listOf(item["parameters"]), listOf(item[o.method].(object)["parameters"])...)
		parameters = without(parameters, "#/components/parameters/ServiceName")
		if len(parameters) > 0 {
			kept[o.method].(object)["parameters"] = parameters
		}
		paths[strings.ReplaceAll(o.path, "{service}", service)] = kept
	}
	reply := object{}
	schemas := object{}
	if said.Request != nil {
		submit := paths["/v1/services/"+service+"/requests"].(object)["post"].(object)
		submit["requestBody"] = object{"required": true, "content": jsonOf(requestSchema)}
		if schemas[requestSchema], err = embedded(said.Request, requestSchema); err != nil {
			return nil, err
		}
	}
	if said.Reply != nil {
		reply["content"] = jsonOf(replySchema)
		if schemas[replySchema], err = embedded(said.Reply, replySchema); err != nil {
			return nil, err
		}
	}
	components["securitySchemes"] = all["components"].(object)["securitySchemes"]
	gather(all, paths, components)
	maps.Copy(components["responses"].(object)["RawReply"].(object), reply)
	for name, schema := range schemas {
		components["schemas"].(object)[name] = schema
	}
	return object{
		"openapi": all["openapi"], "info": info, "servers": []any{object{"url": cmp.Or(strings.TrimSuffix(publicURL, "/"), "/")}},
		"security": all["security"], "paths": paths, "components": components,
	}, nil
}

func jsonOf(schema string) object {
	return object{"application/json": object{"schema": object{"$ref": "#/components/schemas/" + schema}}}
}

// gather puts what node refers to into components, and what that refers to.
func gather(all object, node any, components object) {
	switch node := node.(type) {
	case []any:
		for _, inner := range node {
			gather(all, inner, components)
		}
	case object:
		for key, inner := range node {
			ref, isRef := inner.(string)
			if key != "$ref" || !isRef {
				gather(all, inner, components)
				continue
			}
			kind, name, _ := strings.Cut(strings.TrimPrefix(ref, "#/components/"), "/")
			section, _ := components[kind].(object)
			if section == nil {
				section = object{}
				components[kind] = section
			}
			source, known := all["components"].(object)[kind].(object)[name]
			if _, there := section[name]; known && !there {
				section[name] = copied(source)
				gather(all, section[name], components)
			}
		}
	}
}

// embedded fits a schema into a document whose root is another: what its own
// references mean by # is elsewhere now. A schema with an $id keeps its root.
func embedded(raw json.RawMessage, name string) (any, error) {
	var schema any
	if err := json.Unmarshal(raw, &schema); err != nil {
		return nil, err
	}
	if root, ok := schema.(object); ok && root["$id"] == nil {
		moveReferences(root, "#/components/schemas/"+name)
	}
	return schema, nil
}

func moveReferences(node any, root string) {
	switch node := node.(type) {
	case []any:
		for _, inner := range node {
			moveReferences(inner, root)
		}
	case object:
		for key, inner := range node {
			switch key {
			case "const", "enum", "default", "examples", "example": // values, not schemas
				continue
			}
			ref, isText := inner.(string)
			if key == "$ref" && isText && (ref == "#" || strings.HasPrefix(ref, "#/")) {
				node[key] = root + strings.TrimPrefix(ref, "#")
			} else {
				moveReferences(inner, root)
			}
		}
	}
}

// copied is a deep copy: the contract is shared by all calls.
func copied(node any) any {
	switch node := node.(type) {
	case []any:
		out := make([]any, len(node))
		for i, inner := range node {
			out[i] = copied(inner)
		}
		return out
	case object:
		out := make(object, len(node))
		for key, inner := range node {
			out[key] = copied(inner)
		}
		return out
	}
	return node
}

func listOf(v any) []any {
	list, _ := v.([]any)
	return list
}

// without leaves the reference out of a list.
func without(list []any, ref string) (kept []any) {
	for _, v := range list {
		if o, ok := v.(object); !ok || o["$ref"] != ref {
			kept = append(kept, v)
		}
	}
	return kept
}
