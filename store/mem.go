package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
)

// Mem is a [Source] in memory. The zero value is empty.
type Mem struct {
	mu    sync.Mutex // guards paths
	paths map[HashPart]memPath
}

type memPath struct {
	info Info
	nar  []byte
}

// Add puts a path into the source, or replaces it. Nothing is checked.
func (m *Mem) Add(info Info, nar []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.paths == nil {
		m.paths = map[HashPart]memPath{}
	}
	m.paths[info.Path.HashPart()] = memPath{info, slices.Clone(nar)}
}

// Remove takes a path out of the source, as garbage collection does. NARs that are open stay readable.
func (m *Mem) Remove(hp HashPart) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.paths, hp)
}

// Info implements [Source].
func (m *Mem) Info(ctx context.Context, hp HashPart) (Info, error) {
	p, err := m.path(ctx, hp)
	info := p.info
	info.References, info.Signatures = slices.Clone(info.References), slices.Clone(info.Signatures)
	return info, err
}

// NAR implements [Source].
func (m *Mem) NAR(ctx context.Context, info Info) (NAR, error) {
	p, err := m.path(ctx, info.Path.HashPart())
	if err != nil {
		return nil, err
	}
	if int64(len(p.nar)) != info.NarSize {
		return nil, fmt.Errorf("%s: %w: %d bytes, not %d", info.Path, ErrCorrupt, len(p.nar), info.NarSize)
	}
	return memNAR{bytes.NewReader(p.nar)}, nil
}

func (m *Mem) path(ctx context.Context, hp HashPart) (memPath, error) {
	if err := ctx.Err(); err != nil {
		return memPath{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.paths[hp]
	if !ok {
		return memPath{}, fmt.Errorf("%s: %w", hp, ErrNotFound)
	}
	return p, nil
}

type memNAR struct{ *bytes.Reader }

func (memNAR) Close() error { return nil }
