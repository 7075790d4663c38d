package config

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"time"
)

// Reference renders every key with its default and its meaning as a Markdown
// table. The README holds it between <!-- config:begin --> and
// <!-- config:end -->, and a test compares them.
func Reference() (string, error) {
	comments, err := fieldComments()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("| key | default | meaning |\n|---|---|---|\n")
	c, _, _, _ := defaults()
	items := map[reflect.Type]reflect.Value{}
	for _, item := range append(itemDefaults(), Device{}, Pipeline{}, Peer{}, User{}) {
		items[reflect.TypeOf(item)] = reflect.ValueOf(item)
	}
	if err := referenceRows(&b, reflect.ValueOf(c), "", comments, items); err != nil {
		return "", err
	}
	return b.String(), nil
}

func referenceRows(b *strings.Builder, v reflect.Value, parent string, comments map[string]string, items map[reflect.Type]reflect.Value) error {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		name := field.Tag.Get("yaml")
		if name == "" || name == "-" {
			continue
		}
		key, value := join(parent, name), v.Field(i)
		if value.Kind() == reflect.Struct {
			if err := referenceRows(b, value, key, comments, items); err != nil {
				return err
			}
			continue
		}
		if value.Kind() == reflect.Slice {
			if item, ok := items[field.Type.Elem()]; ok {
				if err := referenceRows(b, item, key+"[]", comments, items); err != nil {
					return err
				}
				continue
			}
		}
		comment := comments[v.Type().Name()+"."+field.Name]
		if comment == "" {
			return fmt.Errorf("key %s has no comment in config.go", key)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", key, defaultText(value), strings.ReplaceAll(comment, "|", `\|`))
	}
	return nil
}

// defaultText writes a default as it would stand in the file.
func defaultText(v reflect.Value) string {
	switch value := v.Interface().(type) {
	case time.Duration:
		return "`" + short(value) + "`"
	case Bytes:
		return "`" + value.String() + "`"
	case string:
		if value == "" {
			return ""
		}
		return "`" + value + "`"
	case []string:
		if len(value) == 0 {
			return ""
		}
		return "`[" + strings.Join(value, ", ") + "]`"
	default:
		return fmt.Sprintf("`%v`", value)
	}
}

// short drops the parts that time.Duration prints for nothing: 5m0s is 5m, and
// a minute stays the 60s that people write.
func short(d time.Duration) string {
	if d >= time.Second && d < 2*time.Minute {
		return fmt.Sprintf("%gs", d.Seconds())
	}
	s := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-len(zero)+1]
		}
	}
	return s
}

// fieldComments returns the comment of every struct field of config.go by
// "Type.Field".
func fieldComments() (map[string]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read the comments of config.go: %w", err)
	}
	comments := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range s.Fields.List {
				for _, name := range field.Names {
					comments[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
		return false
	})
	return comments, nil
}
