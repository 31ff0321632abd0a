// Files of the user's: chosen, dropped, sent, and shown as what they are.

import { upload } from "../api.js";
import { html, useRef, useState } from "../lib.js";
import { assetKnown, tell, useAsset } from "../store.js";
import { bytes, number, share } from "../words.js";
import { Icon } from "./controls.js";
import { AssetPicture } from "./media.js";

export const ACCEPT = { picture: "image/*,video/*", clip: "video/*,image/gif,image/webp", sound: "audio/*,video/*",
  mask: "image/*,video/*", lora: ".safetensors" };

/** Send a file; returns its asset, or null after its fault was told. */
export async function send(file, purpose, told) {
  try {
    return assetKnown(await upload(file, purpose, told));
  } catch (error) {
    tell(error);
    return null;
  }
}

/** A place to drop or choose files. take: called with the asset of each. */
export function Drop({ label, hint, kind = "picture", purpose = "input", multiple = false, take, children }) {
  const [over, setOver] = useState(false);
  const [sent, setSent] = useState(null);
  const input = useRef(null);

  async function takeAll(files) {
    for (const file of multiple ? [...files] : [...files].slice(0, 1)) {
      setSent(0);
      const asset = await send(file, purpose, setSent);
      if (asset) take(asset);
    }
    setSent(null);
  }
  const dragged = (event) => { event.preventDefault(); event.stopPropagation(); setOver(event.type === "dragover"); };
  return html`<div class=${`drop ${over ? "over" : ""}`} onDragOver=${dragged} onDragLeave=${dragged}
    onDrop=${(event) => { dragged(event); takeAll(event.dataTransfer.files); }}>
    <button type="button" class="drop-button" onClick=${() => input.current.click()} disabled=${sent !== null}>
      ${children ?? html`<${Icon} name="upload" /><span>${sent === null ? label : `Sending, ${share(sent)}`}</span>`}
      ${hint && sent === null && html`<small>${hint}</small>`}
    </button>
    <input type="file" ref=${input} hidden accept=${ACCEPT[kind]} multiple=${multiple} aria-label=${label}
      onChange=${(event) => { takeAll(event.target.files); event.target.value = ""; }} />
    ${sent !== null && html`<progress value=${sent} max="1" aria-label="Sent"></progress>`}
  </div>`;
}

export function facts(asset) {
  const words = [];
  if (asset.width) words.push(`${asset.width}×${asset.height}`);
  if (asset.duration_s) words.push(`${number(asset.duration_s)} s`);
  if (asset.fps && asset.media_type.startsWith("video/")) words.push(`${number(asset.fps)} fps`);
  words.push(bytes(asset.bytes));
  return words.join(" · ");
}

/** A file that a field refers to, with its picture and a button that takes it away. */
export function FileChip({ reference, onRemove, children }) {
  const asset = useAsset(reference);
  const name = asset?.missing ? "This file is gone from the server" : asset?.name || asset?.kind || String(reference);
  return html`<div class="file-chip">
    ${asset && !asset.missing && html`<${AssetPicture} asset=${asset} part="thumbnail?width=160" />`}
    <div class="file-words"><strong class=${asset?.missing ? "problem" : ""}>${name}</strong>
      ${asset && !asset.missing && html`<small>${facts(asset)}</small>`}${children}</div>
    ${onRemove && html`<button type="button" class="icon" aria-label=${`Remove ${name}`} onClick=${onRemove}><${Icon} name="close" /></button>`}
  </div>`;
}

/** A field that holds one file. */
export function FileField({ value, onChange, kind, label = "Drop or choose a file", purpose, hint }) {
  if (value) return html`<${FileChip} reference=${value} onRemove=${() => onChange(undefined)} />`;
  return html`<${Drop} label=${label} kind=${kind} hint=${hint} purpose=${purpose}
    take=${(asset) => onChange(`asset:${asset.id}`)} />`;
}
