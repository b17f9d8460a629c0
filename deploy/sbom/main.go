// Command sbom writes the software bill of materials of our programs, in CycloneDX 1.6: the
// modules that are linked into them, with version and checksum, as the programs themselves
// say (debug/buildinfo). It leaves out the C library and the PKCS#11 module, which are not
// linked into anything but loaded.
//
//	go run ./deploy/sbom dist/cardkmsd dist/cardkms > cardkms.cdx.json
package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(programs []string, out io.Writer) error {
	if len(programs) == 0 {
		return errors.New("usage: sbom PROGRAM [PROGRAM...]; it prints the bill")
	}
	bom, err := bill(programs)
	if err != nil {
		return err
	}
	return cdx.NewBOMEncoder(out, cdx.BOMFileFormatJSON).SetPretty(true).Encode(bom)
}

// bill describes the programs. The same programs give the same bytes.
func bill(programs []string) (*cdx.BOM, error) {
	modules := map[string]cdx.Component{}
	bom := cdx.NewBOM()
	bom.SerialNumber = ""
	var names []cdx.Component
	for _, path := range programs {
		info, err := buildinfo.ReadFile(path)
		if err != nil {
			return nil, err
		}
		names = append(names, cdx.Component{Type: cdx.ComponentTypeApplication, Name: filepath.Base(path), Version: info.Main.Version})
		std := component(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")})
		modules[std.PackageURL] = std
		for _, m := range info.Deps {
			c := component(m)
			modules[c.PackageURL] = c
		}
	}
	bom.Metadata = &cdx.Metadata{Component: &cdx.Component{Type: cdx.ComponentTypeApplication, Name: "cardkms", Components: &names}}
	all := make([]cdx.Component, 0, len(modules))
	for _, c := range modules {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b cdx.Component) int { return strings.Compare(a.PackageURL, b.PackageURL) })
	bom.Components = &all
	return bom, nil
}

// component is a module, by its package URL. The checksum is that of go.sum: SHA-256 over the
// names and digests of its files.
func component(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	c := cdx.Component{Type: cdx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: "pkg:golang/" + m.Path + "@" + m.Version}
	c.BOMRef = c.PackageURL
	if sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil && len(sum) > 0 {
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
	}
	return c
}
