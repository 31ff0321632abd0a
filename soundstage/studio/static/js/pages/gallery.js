// The page Gallery: finished clips that play while they are pointed at; search, compare; and the page of one clip.

import { html, useEffect, useRef, useState } from "../lib.js";
import { newestFirst, refreshJob, useStore } from "../store.js";
import { Icon } from "../ui/controls.js";
import { LiveThumbnail } from "../ui/media.js";
import { ago, bytes, clock, stateWord } from "../words.js";
import { Actions, clipOf, JobPicture, jobFacts, Outcome, Progress, promptOf, Trained } from "./job.js";
import { More, useParts } from "./parts.js";

export function Gallery() {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState([]);
  const newest = useStore((state) => newestFirst([...state.jobs.values()].filter(clipOf))[0]?.id);
  const list = useParts({ state: "succeeded", text }, newest);
  const { ids, ready } = list;
  const jobs = useStore((state) => state.jobs);
  const clips = ids.map((id) => jobs.get(id)).filter((job) => job && clipOf(job));
  const choose = (id) => setChosen((held) => (held.includes(id) ? held.filter((one) => one !== id) : [...held, id].slice(-2)));
  return html`<section class="page">
    <header class="page-head"><h1>Gallery</h1>
      <label class="search"><${Icon} name="search" /><span class="hidden-words">Search prompts</span>
        <input type="search" placeholder="Search prompts" value=${text} onInput=${(event) => setText(event.target.value)} /></label>
    </header>
    ${chosen.length > 0 && html`<div class="compare-bar" role="status">
      <span>${chosen.length === 1 ? "Choose one more to compare" : "Two are chosen"}</span>
      <a class="button primary" aria-disabled=${chosen.length < 2} href=${chosen.length === 2 ? `#/compare/${chosen.join("/")}` : undefined}>Compare</a>
      <button type="button" class="link" onClick=${() => setChosen([])}>Clear</button></div>`}
    ${ready && clips.length === 0 && html`<div class="empty">${text ? html`<p>No prompt has “${text}”.</p>`
      : html`<p>No clips yet. What you make is kept here.</p><a class="button primary" href="#/make">Make a clip</a>`}</div>`}
    <ul class="clips">${clips.map((job) => html`<${Card} key=${job.id} job=${job} chosen=${chosen.includes(job.id)} onChoose=${() => choose(job.id)} />`)}</ul>
    <${More} list=${list} />
  </section>`;
}

/** A clip of the gallery. It plays while it is pointed at or focused; the first tap plays it, the second opens it. */
function Card({ job, chosen, onChoose }) {
  const clip = clipOf(job);
  const [playing, setPlaying] = useState(false);
  const touched = useRef(false);
  const open = (event) => {
    if (touched.current && !playing) { event.preventDefault(); setPlaying(true); }
    touched.current = false;
  };
  return html`<li class="clip">
    <a class="clip-picture" href=${`#/clip/${job.id}`} aria-label=${`Open: ${promptOf(job)}`} onClick=${open}
      onPointerDown=${(event) => { touched.current = event.pointerType === "touch"; }}
      onPointerEnter=${(event) => event.pointerType !== "touch" && setPlaying(true)} onPointerLeave=${(event) => event.pointerType !== "touch" && setPlaying(false)}
      onFocus=${(event) => event.target.matches(":focus-visible") && setPlaying(true)} onBlur=${() => setPlaying(false)}>
      <${LiveThumbnail} asset=${clip} poster=${job.result.poster} label="" playing=${playing} />
      ${clip.duration_s && html`<span class="clip-time">${clock(clip.duration_s)}</span>`}
      ${clip.has_sound && html`<span class="clip-sound" title="With sound"><${Icon} name="sound" /></span>`}
    </a>
    <div class="clip-words"><p class="clip-prompt">${promptOf(job)}</p>
      <div class="row"><small class="help grow-1">seed ${job.seed} · ${ago(job.created_at)}</small>
        <label class="choose"><input type="checkbox" checked=${chosen} onChange=${onChoose} /> Compare</label></div></div>
  </li>`;
}

/** The page of one clip. */
export function Clip({ id }) {
  const job = useStore((state) => state.jobs.get(id));
  const connected = useStore((state) => state.me);
  const [missing, setMissing] = useState(false);
  useEffect(() => { if (connected) refreshJob(id).then(() => setMissing(true)); }, [id, connected]);
  if (!job) {
    return html`<section class="page"><div class="empty"><p>${missing ? "There is no such clip; it may have been deleted." : ""}</p>
      <a class="button" href="#/gallery">Gallery</a></div></section>`;
  }
  const clip = clipOf(job);
  return html`<section class="page clip-page">
    <div class="screen large"><${JobPicture} job=${job} /></div>
    <div class="clip-side">
      <h1 class="clip-title">${promptOf(job)}</h1>
      <p class="help">${stateWord(job.state)} · ${jobFacts(job)}</p>
      <${Progress} job=${job} /><${Outcome} job=${job} /><${Trained} job=${job} /><${Actions} job=${job} />
      <${Settings} job=${job} />
      ${clip && html`<p class="help">${clip.media_type} · ${bytes(clip.bytes)} · ${ago(job.created_at)} · ${job.id}</p>`}
    </div>
  </section>`;
}

const shownValue = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function Settings({ job }) {
  const rows = Object.entries(job.request ?? {}).filter(([name, value]) => name !== "prompt" && value !== null && JSON.stringify(value) !== "[]" && JSON.stringify(value) !== "{}");
  return html`<dl class="settings"><div><dt>model</dt><dd>${job.model}</dd></div>
    ${rows.map(([name, value]) => html`<div key=${name}><dt>${name.replaceAll("_", " ")}</dt><dd>${shownValue(value)}</dd></div>`)}</dl>`;
}
