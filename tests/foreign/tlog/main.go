// Checks what Cloakroom says of its log with the checksum database's own library, golang.org/x/mod/sumdb: notes, tiles,
// inclusion and consistency proofs. It prints a line for each check and knows nothing else of Cloakroom.
//
//	tlog DIRECTORY     holds log.vkey, tiles/ (C2SP tlog-tiles), proofs/*.tlog-proof, consistency/*.json
package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"foreign/sumdb/note"
	"foreign/sumdb/tlog"
)

var failed bool

func check(what string, err error) {
	if err != nil {
		failed = true
		fmt.Printf("FAIL  %s: %v\n", what, err)
		return
	}
	fmt.Printf("ok    %s\n", what)
}

// open verifies a note and reads its three lines.
func open(text []byte, verifiers note.Verifiers) (tlog.Tree, error) {
	var tree tlog.Tree
	opened, err := note.Open(text, verifiers)
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 3 {
		return tree, fmt.Errorf("%d lines", len(lines))
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

// reader reads tiles from a directory in the layout of C2SP, which has no height in its paths.
type reader struct{ directory string }

func (r reader) Height() int { return 8 }

func (r reader) SaveTiles([]tlog.Tile, [][]byte) {}

func (r reader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		data, err := os.ReadFile(filepath.Join(r.directory, path))
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// bundle gives the entries of the bundle that goes with a tile of level 0.
func bundle(directory string, index int64, width int) ([][]byte, error) {
	path := tlog.Tile{H: 8, L: 0, N: index, W: width}.Path()
	data, err := os.ReadFile(filepath.Join(directory, strings.Replace(path, "tile/8/0/", "tile/entries/", 1)))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) >= 2 {
		length := int(data[0])<<8 | int(data[1])
		if len(data) < 2+length {
			return nil, fmt.Errorf("bundle %d is torn", index)
		}
		entries = append(entries, data[2:2+length])
		data = data[2+length:]
	}
	if len(data) != 0 || len(entries) != width {
		return nil, fmt.Errorf("bundle %d has %d entries and %d bytes more", index, len(entries), len(data))
	}
	return entries, nil
}

// tiles checks that the tiles have the signed root, and that each entry hashes to what the tree has for it.
func tiles(directory string, tree tlog.Tree) error {
	// It authenticates each tile that it reads against the tree's hash.
	hashes := tlog.TileHashReader(tree, reader{directory})
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return fmt.Errorf("the root is %v", root)
	}
	for first := int64(0); first < tree.N; first += 256 {
		entries, err := bundle(directory, first/256, int(min(256, tree.N-first)))
		if err != nil {
			return err
		}
		for at, entry := range entries {
			index := first + int64(at)
			stored, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			if err != nil {
				return err
			}
			if stored[0] != tlog.RecordHash(entry) {
				return fmt.Errorf("entry %d has another hash", index)
			}
		}
	}
	return nil
}

// proof checks a C2SP tlog-proof whose extra data is the entry.
func proof(text string, verifiers note.Verifiers) error {
	head, signed, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return fmt.Errorf("not a tlog-proof")
	}
	tree, err := open([]byte(signed), verifiers)
	if err != nil {
		return err
	}
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	var path tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		path = append(path, hash)
	}
	if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return err
	}
	// That this can fail.
	entry[0] ^= 1
	if tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(entry)) == nil {
		return fmt.Errorf("another entry has the same proof")
	}
	return nil
}

// consistency checks a proof between two notes.
func consistency(data []byte, verifiers note.Verifiers) error {
	var given struct {
		Older, Newer string
		Hashes       []string
	}
	if err := json.Unmarshal(data, &given); err != nil {
		return err
	}
	older, err := open([]byte(given.Older), verifiers)
	if err != nil {
		return err
	}
	newer, err := open([]byte(given.Newer), verifiers)
	if err != nil {
		return err
	}
	var path tlog.TreeProof
	for _, text := range given.Hashes {
		bytes, err := hex.DecodeString(text)
		if err != nil || len(bytes) != tlog.HashSize {
			return fmt.Errorf("not a hash: %s", text)
		}
		path = append(path, tlog.Hash(bytes))
	}
	if err := tlog.CheckTree(path, newer.N, newer.Hash, older.N, older.Hash); err != nil {
		return err
	}
	if tlog.CheckTree(path, newer.N, newer.Hash, older.N, newer.Hash) == nil {
		return fmt.Errorf("another root has the same proof")
	}
	return nil
}

func main() {
	directory := os.Args[1]
	vkey, err := os.ReadFile(filepath.Join(directory, "log.vkey"))
	check("Go reads the log's public key", err)
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	check("Go takes the log's public key", err)
	if failed {
		os.Exit(1)
	}
	verifiers := note.VerifierList(verifier)

	signed, err := os.ReadFile(filepath.Join(directory, "tiles", "checkpoint"))
	check("Go reads the checkpoint", err)
	tree, err := open(signed, verifiers)
	check("Go accepts the checkpoint's signature", err)
	signed[0] ^= 1
	if _, err := open(signed, verifiers); err == nil {
		check("Go refuses an altered checkpoint", fmt.Errorf("it did not"))
	}
	check(fmt.Sprintf("Go finds the signed root in the tiles of %d entries, and each entry in its tile", tree.N),
		tiles(filepath.Join(directory, "tiles"), tree))

	proofs, _ := filepath.Glob(filepath.Join(directory, "proofs", "*"))
	for _, file := range proofs {
		text, err := os.ReadFile(file)
		if err == nil {
			err = proof(string(text), verifiers)
		}
		check("Go accepts the inclusion proof "+filepath.Base(file), err)
	}
	consistencies, _ := filepath.Glob(filepath.Join(directory, "consistency", "*"))
	for _, file := range consistencies {
		data, err := os.ReadFile(file)
		if err == nil {
			err = consistency(data, verifiers)
		}
		check("Go accepts the consistency proof "+filepath.Base(file), err)
	}
	if failed {
		os.Exit(1)
	}
}
