package apply

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MarshalJSON writes paths so that names of any bytes survive: JSON holds
// Unicode only, and encoding/json replaces all else without a word. Ordinary
// names are written as they are.
func (k Kept) MarshalJSON() ([]byte, error) {
	type plain Kept
	k.Path, k.Old, k.File = escapeName(k.Path), escapeName(k.Old), escapeName(k.File)
	return json.Marshal(plain(k))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (k *Kept) UnmarshalJSON(b []byte) error {
	type plain Kept
	var p plain
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	*k = Kept(p)
	k.Path, k.Old, k.File = unescapeName(k.Path), unescapeName(k.Old), unescapeName(k.File)
	return nil
}

// escapeName writes a backslash as two, and a byte that is not UTF-8 as \xHH.
func escapeName(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, '\\') < 0 {
		return s
	}
	const hex = "0123456789abcdef"
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x`)
			b.WriteByte(hex[s[0]>>4])
			b.WriteByte(hex[s[0]&15])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

// unescapeName undoes escapeName; what that never writes is taken as it is.
func unescapeName(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case strings.HasPrefix(s[i:], `\\`):
			b.WriteByte('\\')
			i++
		case strings.HasPrefix(s[i:], `\x`) && len(s) >= i+4:
			v, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err != nil {
				b.WriteByte(s[i])
				continue
			}
			b.WriteByte(byte(v))
			i += 3
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
