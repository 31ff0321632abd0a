// Pictures and players of assets: addresses with tickets, posters that play while they are pointed at.

import { mediaAddress } from "../api.js";
import { html, useCallback, useEffect, useRef, useState } from "../lib.js";

/** Return [address, renew] of a part of an asset. renew: ask for a new ticket, once. */
export function useMedia(id, part = "content") {
  const [address, setAddress] = useState("");
  const renewed = useRef(false);
  useEffect(() => {
    let live = true;
    setAddress("");
    renewed.current = false;
    if (id) mediaAddress(id, part).then((found) => live && setAddress(found), () => {});
    return () => { live = false; };
  }, [id, part]);
  const renew = useCallback(() => {
    if (renewed.current) return;
    renewed.current = true;
    mediaAddress(id, part, true).then(setAddress, () => {});
  }, [id, part]);
  return [address, renew];
}

export function AssetPicture({ asset, part = "content", alt = "", ...more }) {
  const [address, renew] = useMedia(asset?.id, part);
  if (!address) return html`<span class="picture-empty" ...${more}></span>`;
  return html`<img src=${address} alt=${alt} onError=${renew} draggable=${false} ...${more} />`;
}

/** Whether a result is frames of light in an archive, which no browser shows. */
export const isArchive = (asset) => asset.media_type === "application/zip";

/** A clip or sound with the browser's own controls. element: a ref for those that drive it. poster: shown for an archive. */
export function Player({ asset, element, poster = null, autoplay = false, label = "The clip", ...more }) {
  const [address, renew] = useMedia(asset.id);
  const own = useRef(null);
  const place = element ?? own;
  useAutoplay(place, address, autoplay);
  if (isArchive(asset)) {
    return html`<figure>${poster && html`<${AssetPicture} asset=${poster} alt=${label} />`}
      <figcaption class="help">OpenEXR frames and a preview, in one archive: download it.</figcaption></figure>`;
  }
  if (!address) return html`<div class="picture-empty"></div>`;
  const props = {
    ref: place, src: address, controls: true, loop: true, preload: "auto", "aria-label": label, onError: renew, ...more,
  };
  if (asset.media_type.startsWith("audio/")) return html`<audio ...${props}></audio>`;
  if (asset.media_type.startsWith("image/")) return html`<img src=${address} alt=${label} onError=${renew} />`;
  return html`<video playsinline ...${props}></video>`;
}

function useAutoplay(place, address, wanted) {
  useEffect(() => {
    const player = place.current;
    if (!wanted || !player?.play || !address) return;
    player.play().catch(() => { player.muted = true; player.play().catch(() => {}); });
  }, [address, wanted]);
}

/** A thumbnail that plays with its sound while it is pointed at or focused, or after a tap. */
export function LiveThumbnail({ asset, poster = null, label, playing }) {
  const isFilm = asset.media_type.startsWith("video/");
  const isPicture = asset.media_type.startsWith("image/");
  return html`<div class="live">
    ${isPicture ? html`<${AssetPicture} asset=${asset} alt=${label} />`
      : poster ? html`<${AssetPicture} asset=${poster} alt=${label} />`
      : html`<${AssetPicture} asset=${asset} part="thumbnail?width=480" alt=${label} />`}
    ${playing && isFilm && html`<${Playing} asset=${asset} />`}
    ${playing && asset.media_type.startsWith("audio/") && html`<${Playing} asset=${asset} sound=${true} />`}
  </div>`;
}

function Playing({ asset, sound = false }) {
  const [address, renew] = useMedia(asset.id);
  const place = useRef(null);
  useAutoplay(place, address, true);
  if (!address) return null;
  const props = { ref: place, src: address, loop: true, onError: renew };
  return sound ? html`<audio ...${props}></audio>` : html`<video playsinline tabindex="-1" aria-hidden="true" ...${props}></video>`;
}
