package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "hilum/"
	onnx   = "github.com/yalue/onnxruntime_go"
)

// arrows is the whole import graph between our packages. A package that is
// not listed here, or an import that is not listed, fails the test.
var arrows = map[string]string{
	"dimse/pdu":                "",
	"dimse/deidentify":         "dimse/dataset",
	"dimse/dataset":            "",
	"dimse":                    "dimse/dataset dimse/pdu",
	"dimse/dimsetest":          "dimse/pdu",
	"store":                    "",
	"store/storetest":          "store",
	"models":                   "models/ct",
	"models/ct":                "dimse/dataset",
	"models/nodule":            "",
	"plugins/api":              "plugins/api/pluginpb",
	"plugins/api/pluginpb":     "",
	"plugins/host":             "plugins/api",
	"plugins/apitest":          "models/ct plugins/api plugins/host",
	"plugins/examples/python":  "",
	"plugins/null":             "plugins/api",
	"plugins/lungnodule":       "models models/ct models/nodule plugins/api plugins/lungnodule/codec",
	"plugins/lungnodule/codec": "models/ct",
	"trainer/convert":          "dimse/dataset models/ct trainer/volume",
	"trainer/froc":             "trainer/luna",
	"trainer/insert":           "dimse/dataset models/ct trainer/convert trainer/luna trainer/volume",
	"trainer/luna":             "",
	"trainer/npy":              "",
	"trainer/phantom":          "dimse/dataset models/ct",
	"trainer/predict":          "plugins/api plugins/host trainer/luna trainer/volume",
	"trainer/prepare":          "models/ct trainer/luna trainer/npy trainer/volume",
	"trainer/python":           "",
	"trainer/report":           "models/ct trainer/froc",
	"trainer/volume":           "dimse/dataset models/ct",
	"node/assemble":            "",
	"node/access":              "dimse dimse/pdu node/config",
	"cmd/hilum/command":        "dimse dimse/dataset dimse/deidentify models models/ct node node/access node/config node/report node/rule node/web plugins/api plugins/host store trainer/convert trainer/froc trainer/insert trainer/luna trainer/phantom trainer/predict trainer/prepare trainer/python trainer/report trainer/volume",
	"node":                     "dimse dimse/dataset models node/access node/assemble node/audit node/availability node/commitment node/config node/connect node/device node/mpps node/query node/report node/rule node/task node/web plugins/api plugins/host store",
	"node/audit":               "node/access node/config",
	"node/availability":        "dimse dimse/dataset node/config node/connect node/mpps node/task store",
	"node/commitment":          "dimse dimse/dataset node/config node/connect node/task store",
	"node/config":              "node/rule",
	"node/connect":             "dimse node/access node/config",
	"node/device":              "",
	"node/mpps":                "dimse dimse/dataset node/assemble node/task store",
	"node/query":               "dimse/dataset store",
	"node/report":              "dimse/dataset plugins/api",
	"node/rule":                "",
	"node/task":                "plugins/api store",
	"node/web":                 "node/mpps node/task store",
	"cmd/bench-receive":        "dimse/dataset",
	"cmd/hilum":                "cmd/hilum/command",
}

// runners are the packages that run programs: plugins, Python, readers of volumes, and the
// peers of a benchmark.
var runners = []string{"cmd/bench-receive", "plugins/host", "plugins/null", "trainer/python", "trainer/volume"}

// TestLogMessages: what the node logs has constant messages, and what a peer said stands
// in attributes, which the handler quotes. A message that is put together is a format.
func TestLogMessages(t *testing.T) {
	root := os.DirFS("../..")
	calls := 0
	for _, dir := range []string{"dimse", "store", "node", "plugins/host"} {
		err := fs.WalkDir(root, dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				return err
			}
			src, err := fs.ReadFile(root, name)
			if err != nil {
				return err
			}
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, name, src, 0)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || len(call.Args) == 0 {
					return true
				}
				method, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || !slices.Contains([]string{"Debug", "Info", "Warn", "Error"}, method.Sel.Name) || !isLog(method.X) {
					return true
				}
				calls++
				if text, ok := call.Args[0].(*ast.BasicLit); !ok || text.Kind != token.STRING {
					t.Errorf("%s: the message is not constant", set.Position(call.Pos()))
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if calls < 50 {
		t.Errorf("%d calls of a logger found: the test does not see them", calls)
	}
}

// isLog says whether an expression is a logger, by its name.
func isLog(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "log" || x.Name == "logger" || x.Name == "slog"
	case *ast.SelectorExpr:
		return x.Sel.Name == "log" || x.Sel.Name == "Log" || x.Sel.Name == "Logger"
	}
	return false
}

// TestArrows reads the sources itself instead of running "go list", so that
// the test cache sees every file it depends on.
func TestArrows(t *testing.T) {
	got := map[string][]string{}
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name != "." && strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		src, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		pkg := path.Dir(name)
		if _, ok := got[pkg]; !ok {
			got[pkg] = nil // a package with no imports must be listed too
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if imp == onnx && pkg != "plugins/lungnodule" {
				t.Errorf("%s imports %s: only an inference plugin may", pkg, imp)
			}
			if imp == "os/exec" && !slices.Contains(runners, pkg) {
				t.Errorf("%s imports os/exec: no word that a peer says may come near a program", pkg)
			}
			if imp == "C" && pkg != "plugins/lungnodule/codec" {
				t.Errorf("%s uses cgo: hilum is a static binary", pkg)
			}
			if s, ok := strings.CutPrefix(imp, module); ok && !slices.Contains(got[pkg], s) {
				got[pkg] = append(got[pkg], s)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg, imports := range got {
		want, ok := arrows[pkg]
		if !ok {
			t.Errorf("package %s is not in arrows", pkg)
		}
		for _, imp := range imports {
			if !slices.Contains(strings.Fields(want), imp) {
				t.Errorf("%s imports %s: not an arrow of ours", pkg, imp)
			}
		}
	}
	for pkg, want := range arrows {
		imports, ok := got[pkg]
		if !ok {
			t.Errorf("arrows lists %s, which does not exist", pkg)
		}
		for _, imp := range strings.Fields(want) {
			if !slices.Contains(imports, imp) {
				t.Errorf("arrows lists %s -> %s, which is not used", pkg, imp)
			}
		}
	}
}
