// Small parts of forms: a field with its help and what is wrong with it, choices, switches, dialogs.

import { html, useEffect, useRef, useState } from "../lib.js";

let ids = 0;

export function useId(word = "f") {
  const held = useRef(null);
  held.current ??= `${word}${++ids}`;
  return held.current;
}

/** A label over a control. children: a function of {id, describedBy, invalid}. */
export function Field({ label, help, unit, problems = [], wide = false, children }) {
  const id = useId();
  const told = `${id}-told`;
  const bad = problems.length > 0;
  return html`<div class=${`field ${wide ? "wide" : ""} ${bad ? "bad" : ""}`}>
    <label for=${id}>${label}${unit && unit !== label.toLowerCase() && html`<span class="unit"> ${unit}</span>`}</label>
    ${children({ id, "aria-describedby": told, "aria-invalid": bad ? "true" : undefined })}
    <div id=${told} class="told">
      ${problems.map((problem) => html`<p class="problem">${problem}</p>`)}
      ${help && html`<p class="help">${help}</p>`}
    </div>
  </div>`;
}

/** A number that may be left out. A text that is no number stays in the field and is marked. */
export function NumberInput({ value, onChange, step = "any", ...more }) {
  const set = (event) => {
    const { value: text, valueAsNumber } = event.target;
    if (text === "" && !event.target.validity.badInput) onChange(undefined);
    else if (Number.isFinite(valueAsNumber)) onChange(valueAsNumber);
  };
  return html`<input type="number" inputmode="decimal" step=${step} value=${value ?? ""} onInput=${set} ...${more} />`;
}

/** A text that is read as a value once it is left. read: text -> value, throws with a sentence. */
export function ReadText({ value, shown, read, onChange, lines = 0, ...more }) {
  const [text, setText] = useState(null);
  const [fault, setFault] = useState("");
  const own = value === undefined || value === null ? "" : shown(value);
  const leave = () => {
    if (text === null) return;
    try {
      onChange(text.trim() ? read(text) : undefined);
      setText(null);
      setFault("");
    } catch (error) { setFault(error.message); }
  };
  const props = { value: text ?? own, onInput: (event) => setText(event.target.value), onBlur: leave, ...more };
  return html`<div class="stack">
    ${lines ? html`<textarea rows=${lines} spellcheck="false" ...${props}></textarea>` : html`<input type="text" ...${props} />`}
    ${fault && html`<p class="problem" role="alert">${fault}</p>`}
  </div>`;
}

export function Select({ value, options, onChange, empty, ...more }) {
  const words = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  return html`<select value=${value ?? ""} onChange=${(event) => onChange(event.target.value || undefined)} ...${more}>
    ${empty !== undefined && html`<option value="">${empty}</option>`}
    ${words.map(([word, shown]) => html`<option value=${word} selected=${word === value}>${shown}</option>`)}
  </select>`;
}

export function Switch({ label, value, onChange, help }) {
  return html`<label class="switch">
    <input type="checkbox" role="switch" checked=${!!value} onChange=${(event) => onChange(event.target.checked)} />
    <span class="track" aria-hidden="true"></span>
    <span>${label}${help && html`<small>${help}</small>`}</span>
  </label>`;
}

/** Buttons of which one is on. options: [[value, label]]. */
export function Chips({ label, value, options, onChange }) {
  return html`<div class="chips" role="group" aria-label=${label}>
    ${options.map(([word, shown]) => html`<button type="button" class="chip" aria-pressed=${String(word === value)}
      onClick=${() => onChange(word)}>${shown}</button>`)}
  </div>`;
}

export function Slider({ label, value, onChange, min = 0, max = 1, step = 0.05, shown = (number) => number }) {
  return html`<label class="slider"><span>${label}</span>
    <input type="range" min=${min} max=${max} step=${step} value=${value} aria-label=${label}
      onInput=${(event) => onChange(event.target.valueAsNumber)} />
    <output>${shown(value)}</output></label>`;
}

/** A part of the form that opens. summary: what it holds, in a few words. */
export function Section({ title, summary, open, onToggle, problems = 0, children, id }) {
  return html`<details class=${`section ${problems ? "bad" : ""}`} open=${open} id=${id}>
    <summary onClick=${(event) => { event.preventDefault(); onToggle(!open); }}>
      <span class="section-title">${title}</span>
      <span class="section-summary">${summary}</span>
      ${problems > 0 && html`<span class="badge bad">${problems} to mend</span>`}
    </summary>
    ${open && html`<div class="section-body">${children}</div>`}
  </details>`;
}

export function Dialog({ title, onClose, children, wide = false }) {
  const element = useRef(null);
  const id = useId("d");
  useEffect(() => {
    const dialog = element.current;
    if (!dialog.open) dialog.showModal();
    return () => dialog.open && dialog.close();
  }, []);
  return html`<dialog ref=${element} class=${wide ? "wide" : ""} aria-labelledby=${id} onClose=${onClose}
    onClick=${(event) => event.target === element.current && onClose()}>
    <div class="dialog-body">
      <header><h2 id=${id}>${title}</h2>
        <button type="button" class="icon" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button></header>
      ${children}
    </div>
  </dialog>`;
}

/** Ask before something that cannot be undone. */
export function Confirm({ title, text, verb, onYes, onClose }) {
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <p>${text}</p>
    <div class="row end">
      <button type="button" class="button" onClick=${onClose}>Keep</button>
      <button type="button" class="button danger" onClick=${() => { onClose(); onYes(); }}>${verb}</button>
    </div>
  <//>`;
}

const PATHS = {
  close: "M6 6l12 12M18 6L6 18",
  make: "M5 19l9-9M14.5 4.5v3M13 6h3M18.5 9.5v3M17 11h3M12 8l4 4",
  queue: "M5 7h14M5 12h14M5 17h9",
  gallery: "M4 5h7v6H4zM13 5h7v6h-7zM4 13h7v6H4zM13 13h7v6h-7z",
  models: "M12 4l8 4.5v7L12 20l-8-4.5v-7zM4.2 8.6L12 13l7.8-4.4M12 13v7",
  system: "M5 5h14v10H5zM9 19h6M12 15v4",
  play: "M8 5.5v13l11-6.5z", pause: "M8 5v14M16 5v14",
  sun: "M12 8a4 4 0 100 8 4 4 0 000-8zM12 3v2M12 19v2M3 12h2M19 12h2M5.6 5.6L7 7M17 17l1.4 1.4M5.6 18.4L7 17M17 7l1.4-1.4",
  moon: "M19 14.5A7.5 7.5 0 119.5 5a6 6 0 009.5 9.5z",
  auto: "M12 4a8 8 0 100 16zM12 4a8 8 0 010 16",
  upload: "M12 16V5M8 9l4-4 4 4M5 19h14",
  download: "M12 5v11M8 12l4 4 4-4M5 19h14",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12",
  dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M15 9h.01M9 15h.01",
  sound: "M5 10v4h3l4 3.5v-11L8 10zM15.5 9.5a4 4 0 010 5M18 7.5a7 7 0 010 9",
  brush: "M14 5l5 5-7 7H7v-5zM5 19h14", plus: "M12 5v14M5 12h14", search: "M11 5a6 6 0 100 12 6 6 0 000-12zM15.5 15.5L20 20",
};

export function Icon({ name }) {
  return html`<svg class="icon-drawing" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}
