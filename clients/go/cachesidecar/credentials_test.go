package cachesidecar

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestATokenFileWithoutATokenIsAnErrorAndLaterLoggedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	write("# the cart's\ncart app t-._~+/9==\n")
	file, err := newTokenFile(path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil || file.current() != "t-._~+/9==" {
		t.Fatal(file, err)
	}
	for wrong, why := range map[string]string{"# nothing\n": "it is empty", "t\u00f6k": "only letters", "a\x01b": "only letters"} {
		write(wrong)
		if _, err := newTokenFile(path, slog.Default()); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", wrong, err)
		}
		if token := file.reread(); token != "t-._~+/9==" {
			t.Errorf("%q: %q", wrong, token)
		}
	}
	if count := strings.Count(log.String(), "\n"); count != 1 {
		t.Errorf("logged %d times: %s", count, &log)
	}
	write("second")
	if token := file.reread(); token != "second" {
		t.Error(token)
	}
}
