package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"cardkms/api"
)

// UploadImage streams the content of a registered image, size bytes. It is not
// repeated when the connection breaks; upload again, the image is as it was.
func (c *Client) UploadImage(ctx context.Context, issuer, image string, size int64, content io.Reader) (out api.Image, err error) {
	k := call{method: http.MethodPut, path: path("issuers", issuer, "images", image, "content")}
	req, err := c.request(ctx, k, io.NopCloser(content))
	if err != nil {
		return out, err
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", api.BinaryType)
	resp, err := c.send(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	err = decode(resp, &out)
	return out, err
}

// DownloadChunks writes the sealed chunks of a package from number from on, and
// returns how many bytes w got. A download that breaks off goes on from the last
// whole chunk.
func (c *Client) DownloadChunks(ctx context.Context, issuer, id string, from int, w io.Writer) (int64, error) {
	k := get(url.Values{"from": {strconv.Itoa(from)}}, "issuers", issuer, "packages", id, "chunks")
	req, err := c.request(ctx, k, nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.send(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		err = fmt.Errorf("client: the download broke off: %w", err)
	}
	return n, err
}
