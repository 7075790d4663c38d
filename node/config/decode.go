package config

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxDepth bounds the nesting of a file. Three levels are used; the bound
// keeps a hostile file from the parser, which recurses.
const maxDepth = 32

var (
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[Bytes]()
)

// decoder walks the syntax tree of a file into a Config. The library's own
// decoder is not used for this: it stops at the first problem and names no
// nearest key.
type decoder struct {
	*problems
	lines map[string]int // key -> line
}

// decode reads text into c, which holds the defaults, and returns the line of
// every key it saw.
func decode(text []byte, c *Config, p *problems) map[string]int {
	d := &decoder{problems: p, lines: map[string]int{}}
	body := d.parse(text)
	if body != nil {
		d.value(body, reflect.ValueOf(c).Elem(), "", 1)
	}
	return d.lines
}

// parse returns the one document of a file, nil when it is empty or damaged.
func (d *decoder) parse(text []byte) (body ast.Node) {
	// The parser is made for well-meant input: what it cannot bear becomes
	// a sentence here instead of a crash of the node that reloads.
	defer func() {
		if r := recover(); r != nil {
			d.add(0, "", "this is not YAML that can be read")
			body = nil
		}
	}()
	if line := tooDeep(text); line > 0 {
		d.add(line, "", "nested more than %d levels deep", maxDepth)
		return nil
	}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		line, message := 0, err.Error()
		if e, ok := err.(yaml.Error); ok {
			message = e.GetMessage()
			if tk := e.GetToken(); tk != nil && tk.Position != nil {
				line = tk.Position.Line
			}
		}
		if before, _, found := strings.Cut(message, " already defined at ["); found {
			message = strings.Replace(before, "mapping key", "key", 1) + " is written twice: keep one"
		} else {
			message = "not valid YAML: " + message
		}
		d.add(line, "", "%s", message)
		return nil
	}
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType:
		case body != nil:
			d.add(line(doc.Body), "", "a second document begins here: keep one")
			return nil
		default:
			body = doc.Body
		}
	}
	return body
}

// tooDeep returns the line on which a file is nested beyond maxDepth, 0 if it
// never is: by brackets, or by indentation and "- - -", whose every level
// takes a column. It may count brackets inside quoted text, which does no
// harm at this bound.
func tooDeep(text []byte) int {
	line, depth, indent, leading := 1, 0, 0, true
	for _, b := range text {
		switch {
		case b == '\n':
			line, indent, leading = line+1, 0, true
			continue
		case b == '[' || b == '{':
			depth++
		case (b == ']' || b == '}') && depth > 0:
			depth--
		}
		if leading = leading && strings.IndexByte(" \t-?:", b) >= 0; leading && b != ' ' {
			indent++
		}
		if depth > maxDepth || indent > maxDepth {
			return line
		}
	}
	return 0
}

func line(n ast.Node) int {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return 0
	}
	return n.GetToken().Position.Line
}

// value decodes node into v, which holds the default. A key without a value
// (null) keeps it.
func (d *decoder) value(n ast.Node, v reflect.Value, key string, at int) {
	if n == nil || n.Type() == ast.NullType {
		return
	}
	switch n.Type() {
	case ast.AnchorType, ast.AliasType, ast.TagType, ast.MergeKeyType:
		d.add(line(n), key, "anchors, aliases and tags are not read: write the value out")
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(n, v, key)
	case v.Type() == bytesType:
		d.bytes(n, v, key)
	case v.Kind() == reflect.Struct:
		d.mapping(n, v, key)
	case v.Kind() == reflect.Slice:
		d.sequence(n, v, key)
	case v.Kind() == reflect.String:
		if s, ok := text(n); ok {
			v.SetString(s)
			return
		}
		d.add(line(n), key, "%s where a text belongs", describe(n))
	case v.Kind() == reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
			return
		}
		d.add(line(n), key, "%s where true or false belongs", describe(n))
	case v.Kind() == reflect.Int:
		if i, ok := integer(n); ok {
			v.SetInt(i)
			return
		}
		d.add(line(n), key, "%s where a whole number belongs", describe(n))
	}
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, key string) {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode: // how older versions of the parser give a mapping of one key
		pairs = []*ast.MappingValueNode{n}
	default:
		where := "where keys and values belong"
		if key == "" {
			where = "where the keys of the configuration belong, such as ae_title: HILUM"
		}
		d.add(line(n), key, "%s %s", describe(n), where)
		return
	}
	fields, names := fieldsOf(v.Type())
	for _, pair := range pairs {
		name, ok := text(pair.Key)
		if !ok {
			d.add(line(pair.Key), key, "%s where a key belongs", describe(pair.Key))
			continue
		}
		index, known := fields[name]
		if !known {
			d.unknown(line(pair.Key), name, key, names)
			continue
		}
		path := join(key, name)
		d.lines[path] = line(pair.Key)
		d.value(pair.Value, v.Field(index), path, line(pair.Key))
	}
}

// unknown reports a key that does not exist.
func (d *decoder) unknown(at int, name, parent string, names []string) {
	problem := fmt.Sprintf("unknown key %q", name)
	if parent != "" {
		problem += " in " + parent
	}
	if near := nearest(name, names); near != "" {
		problem += fmt.Sprintf(": did you mean %q?", near)
	} else {
		problem += ": the keys are " + strings.Join(names, ", ")
	}
	d.add(at, "", "%s", problem)
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, key string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(line(n), key, "%s where a list belongs", describe(n))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, item := range seq.Values {
		path := fmt.Sprintf("%s[%d]", key, i)
		at := line(item)
		if m, ok := item.(*ast.MappingNode); ok && len(m.Values) > 0 {
			at = line(m.Values[0].Key) // the token of a mapping is its first colon
		}
		d.lines[path] = at
		if item == nil || item.Type() == ast.NullType {
			d.add(at, path, "an item of the list is empty")
			continue
		}
		v.Index(i).Set(itemDefault(v.Type().Elem()))
		d.value(item, v.Index(i), path, at)
	}
}

// itemDefault is what an item of a list starts from.
func itemDefault(t reflect.Type) reflect.Value {
	for _, v := range itemDefaults() {
		if reflect.TypeOf(v) == t {
			return reflect.ValueOf(v)
		}
	}
	return reflect.Zero(t)
}

func (d *decoder) duration(n ast.Node, v reflect.Value, key string) {
	s, ok := text(n)
	if !ok {
		d.add(line(n), key, "%s where a duration belongs, such as 60s or 5m", describe(n))
		return
	}
	value, err := time.ParseDuration(s)
	switch {
	case err != nil:
		d.add(line(n), key, "%q is not a duration: write a number and its unit, such as 60s, 5m or 1h30m", s)
	case value < 0:
		d.add(line(n), key, "%q is negative: a duration cannot be", s)
	default:
		v.SetInt(int64(value))
	}
}

func (d *decoder) bytes(n ast.Node, v reflect.Value, key string) {
	s, ok := text(n)
	if !ok {
		d.add(line(n), key, "%s where an amount belongs, such as 500MB or 2GiB", describe(n))
		return
	}
	value, ok := parseBytes(s)
	if !ok {
		d.add(line(n), key, "%q is not an amount: write a number and its unit, such as 500MB or 2GiB", s)
		return
	}
	v.SetInt(int64(value))
}

// text returns the characters of a scalar that can stand for a text: numbers
// count, for an AE title may be one.
func text(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func integer(n ast.Node) (int64, bool) {
	i, ok := n.(*ast.IntegerNode)
	if !ok {
		return 0, false
	}
	switch value := i.Value.(type) {
	case int64:
		return value, value <= math.MaxInt32 && value >= math.MinInt32
	case uint64:
		return int64(value), value <= math.MaxInt32
	}
	return 0, false
}

// describe says what a person wrote.
func describe(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return "the value " + strconv.FormatBool(n.Value)
	default:
		if s, ok := text(n); ok {
			if r := []rune(s); len(r) > 40 {
				s = string(r[:40]) + "…"
			}
			return strconv.Quote(s)
		}
	}
	return "something else"
}

// fieldsOf returns the keys of a struct: name -> field index, and the names in
// order.
func fieldsOf(t reflect.Type) (map[string]int, []string) {
	fields, names := map[string]int{}, []string{}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		fields[name] = i
		names = append(names, name)
	}
	return fields, names
}

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}
