package audit_test

import (
	"encoding/xml"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
)

// node is an element of a message.
type node struct {
	name     string
	attrs    map[string]string
	children []*node
	text     string
}

// parse reads one XML document, whole.
func parse(text string) (*node, error) {
	d := xml.NewDecoder(strings.NewReader(text))
	root := &node{}
	open := []*node{root}
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		top := open[len(open)-1]
		switch e := token.(type) {
		case xml.StartElement:
			n := &node{name: e.Name.Local, attrs: map[string]string{}}
			for _, a := range e.Attr {
				n.attrs[a.Name.Local] = a.Value
			}
			top.children = append(top.children, n)
			open = append(open, n)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			top.text += string(e)
		}
	}
	if len(root.children) != 1 || strings.TrimSpace(root.text) != "" {
		return nil, fmt.Errorf("%d elements at the top and %q, want one", len(root.children), root.text)
	}
	return root.children[0], nil
}

// element is a rule of the schema: a "?" behind the name of an attribute or a child says
// that it may be missing, a "*" that it may come any number of times, a "+" at least once.
// Children come in this order; of those that a "|" parts there is one.
type element struct {
	attrs    map[string]string // name to what a value must match
	children []string
}

// schema is the RELAX NG schema of PS3.15 A.5.1, as far as its structure goes.
var schema = func() map[string]element {
	text := `.*`
	code := element{attrs: map[string]string{"csd-code": `.+`, "codeSystemName": `.+`, "originalText": `.+`, "displayName?": text, "codeSystem?": text}}
	return map[string]element{
		"AuditMessage": {children: []string{"EventIdentification", "ActiveParticipant+", "AuditSourceIdentification", "ParticipantObjectIdentification*"}},
		"EventIdentification": {map[string]string{"EventActionCode?": `[CRUDE]`, "EventDateTime": `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)`, "EventOutcomeIndicator": `0|4|8|12`},
			[]string{"EventID", "EventTypeCode*", "EventOutcomeDescription?"}},
		"EventID": code, "EventTypeCode": code, "RoleIDCode": code, "ParticipantObjectIDTypeCode": code, "EventOutcomeDescription": {},
		"ActiveParticipant": {map[string]string{"UserID": `.+`, "AlternativeUserID?": text, "UserName?": text, "UserIsRequestor": `true|false`, "NetworkAccessPointID?": `.+`, "NetworkAccessPointTypeCode?": `[1-5]`},
			[]string{"RoleIDCode*", "MediaIdentifier?"}},
		"AuditSourceIdentification": {map[string]string{"AuditEnterpriseSiteID?": text, "AuditSourceID": `.+`}, []string{"AuditSourceTypeCode*"}},
		// One of the values of the standard needs no scheme.
		"AuditSourceTypeCode": {map[string]string{"csd-code": `[1-9]`, "codeSystemName?": text, "originalText?": text, "displayName?": text}, nil},
		"ParticipantObjectIdentification": {map[string]string{"ParticipantObjectID": `.+`, "ParticipantObjectTypeCode?": `[1-4]`, "ParticipantObjectTypeCodeRole?": `[1-9]|1\d|2[0-4]`,
			"ParticipantObjectDataLifeCycle?": `[1-9]|1[0-5]`, "ParticipantObjectSensitivity?": text},
			[]string{"ParticipantObjectIDTypeCode", "ParticipantObjectName|ParticipantObjectQuery", "ParticipantObjectDetail*", "ParticipantObjectDescription*"}},
		"ParticipantObjectName": {}, "ParticipantObjectQuery": {},
		"ParticipantObjectDescription": {children: []string{"MPPS*", "Accession*", "SOPClass*", "ParticipantObjectContainsStudy?", "Encrypted?", "Anonymized?"}},
		"SOPClass":                     {map[string]string{"UID?": `[0-9.]+`, "NumberOfInstances": `\d+`}, []string{"Instance*"}},
	}
}()

// check returns what of an element breaks the schema.
func check(n *node) (problems []string) {
	rule, ok := schema[n.name]
	if !ok {
		return []string{"the schema has no " + n.name}
	}
	known := map[string]bool{}
	for name, pattern := range rule.attrs {
		name, optional := strings.CutSuffix(name, "?")
		known[name] = true
		value, there := n.attrs[name]
		switch {
		case !there && !optional:
			problems = append(problems, n.name+" has no "+name)
		case there && !regexp.MustCompile("(?s)^("+pattern+")$").MatchString(value):
			problems = append(problems, fmt.Sprintf("%s: %s is %q", n.name, name, value))
		}
	}
	for name := range n.attrs {
		if !known[name] {
			problems = append(problems, n.name+" has an attribute "+name)
		}
	}
	rest := n.children
	for _, want := range rule.children {
		names := strings.Split(strings.TrimRight(want, "?*+"), "|")
		count := 0
		for len(rest) > 0 && (rest[0].name == names[0] || rest[0].name == names[len(names)-1]) {
			problems = append(problems, check(rest[0])...)
			rest = rest[1:]
			count++
		}
		least := !strings.ContainsAny(want, "?*")
		if least && count == 0 || !strings.ContainsAny(want, "*+") && count > 1 {
			problems = append(problems, fmt.Sprintf("%s has %d of %s", n.name, count, want))
		}
	}
	for _, c := range rest {
		problems = append(problems, fmt.Sprintf("%s: %s is out of its place", n.name, c.name))
	}
	if len(rule.children) > 0 && strings.TrimSpace(n.text) != "" {
		problems = append(problems, n.name+" has text")
	}
	return problems
}

// wantValid holds a message against the schema and returns it.
func wantValid(t *testing.T, body string) *node {
	t.Helper()
	n, err := parse(body)
	if err != nil {
		t.Fatalf("%v in %.300s", err, body)
	}
	for _, problem := range check(n) {
		t.Errorf("%s, in %.600s", problem, body)
	}
	return n
}

// find returns the first child of that name, an empty one when there is none.
func (n *node) find(name string) *node {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	return &node{}
}
