// One job wherever it is shown: its picture, how far it is, what went wrong, and what can be done with it.

import { current, fill, following } from "../draft.js";
import { html, useState } from "../lib.js";
import { cancelJob, deleteJob, FINAL, notice, putJob, retryJob, tell } from "../store.js";
import { Confirm, Icon } from "../ui/controls.js";
import { AssetPicture, isArchive, Player, useMedia } from "../ui/media.js";
import { lossWords, number, progressWords, seconds, share, stateWord } from "../words.js";
import { reuse, tellOfForm } from "./make.js";

const SETTLED_MS = 150; // until the form is drawn

export const isOver = (job) => FINAL.has(job.state);
export const clipOf = (job) => job.result?.clip ?? null;
const NAMES = { pull: (job) => `Download of ${job.model}`, train: (job) => `Training of a LoRA${job.label ? `: ${job.label}` : ""}` };
export const promptOf = (job) => job.request?.prompt || (NAMES[job.kind]?.(job) ?? job.kind);
/** The clip that a job shows: its own, or the last one that a training has made on the way. */
const shownOf = (job) => clipOf(job) ?? job.result?.validation?.at(-1) ?? null;

/** The clip of a job, or its preview while it is made. */
export function JobPicture({ job, autoplay = false }) {
  const clip = shownOf(job);
  if (clip) return html`<${Player} asset=${clip} poster=${job.result?.poster} autoplay=${autoplay} label=${promptOf(job)} key=${clip.id} />`;
  const [width, height] = job.plan?.size?.[0] ? job.plan.size : [3, 2];
  return html`<div class="preview" style=${{ aspectRatio: `${width} / ${height}` }}>
    ${job.preview ? html`<${Preview} asset=${job.preview} />` : html`<span class="preview-word">${isOver(job) ? "" : stateWord(job.state)}</span>`}
  </div>`;
}

/** Return the address of a preview. A newer one has the same id: what it holds tells them apart. */
export const previewPart = (asset) => `content?v=${asset.sha256.slice(0, 12)}`;

/** The newest preview. The one before stays until it has come, so that nothing flickers. */
function Preview({ asset }) {
  const [shown, setShown] = useState(null);
  const isFilm = asset.media_type.startsWith("video/");
  const part = previewPart(asset);
  const held = shown ?? part;
  return html`${isFilm ? html`<${SilentLoop} asset=${asset} part=${held} />` : html`<${AssetPicture} asset=${asset} part=${held} alt="Preview" />`}
    ${held !== part && html`<span class="ahead"><${AssetPicture} asset=${asset} part=${part} key=${part} onLoad=${() => setShown(part)} /></span>`}`;
}

function SilentLoop({ asset, part }) {
  const [address, renew] = useMedia(asset.id, part);
  return address && html`<video src=${address} muted loop autoplay playsinline aria-label="Preview" onError=${renew}></video>`;
}

export function Progress({ job }) {
  if (isOver(job)) return null;
  const part = job.progress?.fraction ?? 0;
  return html`<div class="progress-line">
    <progress max="1" value=${job.state === "queued" ? 0 : part} aria-label="How far it is"></progress>
    <p><span>${progressWords(job)}</span><span>${job.state === "queued" ? "" : share(part)}</span></p>
  </div>`;
}

export function Outcome({ job }) {
  if (job.error) return html`<p class="problem outcome">${job.error.message}</p>`;
  if (job.state === "cancelled") return html`<p class="help outcome">Cancelled.</p>`;
  return job.warnings?.length ? html`<details class="more"><summary>${job.warnings.length === 1 ? "A note" : `${job.warnings.length} notes`}</summary>
    ${job.warnings.map((warning) => html`<p class="help">${warning}</p>`)}</details>` : null;
}

export function jobFacts(job) {
  const clip = clipOf(job);
  const words = [];
  if (job.kind === "train") words.push(job.plan?.summary ?? "");
  else if (clip?.width) words.push(`${clip.width}×${clip.height}`);
  else if (job.plan?.size) words.push(`${job.plan.size[0]}×${job.plan.size[1]}`);
  const length = clip?.duration_s ?? job.plan?.duration_s;
  if (length && job.kind !== "train") words.push(`${number(length)} s`);
  if (job.seed !== null && job.seed !== undefined) words.push(`seed ${job.seed}`);
  if (job.finished_at && job.started_at && job.state === "succeeded") words.push(`made in ${seconds(job.finished_at - job.started_at)}`);
  return words.join(" · ");
}

/** The files of a training that has succeeded, and its last losses. */
export function Trained({ job }) {
  const { lora, config, losses, report } = job.result ?? {};
  if (!lora) return null;
  const stem = fileName(job).replace(/\.\w+$/, "");
  return html`<div class="trained">
    ${job.progress?.losses && html`<p class="help">Last losses: ${lossWords(job.progress.losses)}</p>`}
    <p class="help">In a request: <code>asset:${lora.id}</code></p>
    <div class="actions"><${Download} asset=${lora} name=${`${stem}.safetensors`} word="LoRA" />
      <${Download} asset=${losses} name=${`${stem}.csv`} word="Losses" /><${Download} asset=${report} name=${`${stem}.html`} word="Report" />
      <${Download} asset=${config} name=${`${stem}.json`} word="Config" /></div>
  </div>`;
}

/** Go on from a finished clip in the form. */
export function goOn(job, how) {
  const before = current();
  fill(following(job, how), { open: "source" });
  const words = {
    retake: "Mark what is made again, and say what it shows.", extend: "Say how much is added, and what happens in it.",
    upscale: "The clip is made larger with the recipe upscale.",
  };
  tellOfForm(words[how], before);
  location.hash = "#/make";
  setTimeout(() => document.getElementById("source")?.scrollIntoView({ behavior: "smooth", block: "start" }), SETTLED_MS);
}

/** What can be done with a job. */
export function Actions({ job, compare = null }) {
  const clip = clipOf(job);
  const film = clip && !clip.media_type.startsWith("audio/") && !isArchive(clip);
  const [asking, setAsking] = useState(false);
  const run = (work) => () => work().catch(tell);
  return html`<div class="actions">
    ${!isOver(job) && html`<button type="button" class="button" onClick=${run(() => cancelJob(job.id))}>Cancel</button>`}
    ${!isOver(job) && html`<button type="button" class="button" onClick=${run(() => putJob(job.id, job.state === "paused" ? "resume" : "pause"))}>${job.state === "paused" ? "Go on" : "Pause"}</button>`}
    ${job.kind === "generate" && html`<button type="button" class="button" onClick=${() => reuse(job)}>Reuse settings</button>`}
    ${film && html`<button type="button" class="button" onClick=${() => goOn(job, "retake")}>Retake</button>
      <button type="button" class="button" onClick=${() => goOn(job, "extend")}>Extend</button>
      <button type="button" class="button" onClick=${() => goOn(job, "upscale")}>Upscale</button>`}
    ${compare}
    ${(job.state === "failed" || job.state === "cancelled") && html`<button type="button" class="button" onClick=${run(async () => { await retryJob(job.id); notice("It is in the queue again."); })}>Try again</button>`}
    ${clip && html`<${Download} asset=${clip} name=${fileName(job)} />`}
    ${isOver(job) && html`<button type="button" class="icon" aria-label="Delete" title="Delete" onClick=${() => setAsking(true)}><${Icon} name="trash" /></button>`}
    ${asking && html`<${Confirm} title=${job.kind === "train" ? "Delete this training?" : "Delete this clip?"} verb="Delete" onClose=${() => setAsking(false)}
      text="Its file and its settings are removed from the server. This cannot be undone."
      onYes=${run(async () => { await deleteJob(job.id); notice("Deleted."); if (location.hash.startsWith("#/clip/")) location.hash = "#/gallery"; })} />`}
  </div>`;
}

function fileName(job) {
  const words = promptOf(job).toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 40).replace(/-$/, "");
  return `${words || "clip"}-${job.seed ?? job.id.slice(-6)}.${job.format || "mp4"}`;
}

function Download({ asset, name, word = "Download" }) {
  const [address, renew] = useMedia(asset.id);
  return html`<a class="button" href=${address || undefined} download=${name} onFocus=${renew}><${Icon} name="download" />${word}</a>`;
}
