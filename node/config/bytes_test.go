package config_test

import (
	"testing"

	"hilum/node/config"
)

func TestBytes(t *testing.T) {
	for _, tt := range []struct {
		text string
		want config.Bytes // -1: refused
		as   string
	}{
		{"0", 0, "0"},
		{"2GiB", 2 << 30, "2GiB"},
		{"500MB", 500e6, "500MB"},
		{"1.5 gib", 3 << 29, "1536MiB"},
		{"7B", 7, "7B"},
		{"100", -1, ""},
		{"-1GB", -1, ""},
		{"9999999999TB", -1, ""},
		{"2 apples", -1, ""},
	} {
		c, err := config.Parse("f", []byte("min_free: "+tt.text+"\n"))
		if tt.want < 0 {
			if err == nil {
				t.Errorf("min_free: %s = %d, want an error", tt.text, c.MinFree)
			}
			continue
		}
		if err != nil || c.MinFree != tt.want || c.MinFree.String() != tt.as {
			t.Errorf("min_free: %s = %v, %v; want %s", tt.text, c.MinFree, err, tt.as)
		}
	}
}
