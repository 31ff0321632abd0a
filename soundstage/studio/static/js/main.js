// The page: its frame, its routes, the sign-in, the banner while the server is away, and notices.

import { key } from "./api.js";
import { html, render, useEffect, useState } from "./lib.js";
import { Clip, Gallery } from "./pages/gallery.js";
import { Compare } from "./pages/compare.js";
import { isOver } from "./pages/job.js";
import { Make } from "./pages/make.js";
import { Models } from "./pages/models.js";
import { Queue } from "./pages/queue.js";
import { System } from "./pages/system.js";
import { change, connect, dismiss, useStore } from "./store.js";
import { Icon } from "./ui/controls.js";

const PAGES = [["make", "Make"], ["queue", "Queue"], ["gallery", "Gallery"], ["models", "Models"], ["system", "System"]];
const VIEWS = { make: Make, queue: Queue, gallery: Gallery, models: Models, system: System };
const THEMES = ["auto", "light", "dark"];
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

function useRoute() {
  const read = () => location.hash.replace(/^#\//, "").split("/").filter(Boolean);
  const [route, setRoute] = useState(read());
  useEffect(() => {
    const changed = () => { setRoute(read()); scrollTo(0, 0); };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  return route;
}

function App() {
  const [page = "make", ...words] = useRoute();
  const { keyNeeded, away } = useStore((state) => state);
  useEffect(() => {
    document.title = `${PAGES.find(([name]) => name === page)?.[1] ?? "Clip"} · Soundstage`;
  }, [page]);
  const View = VIEWS[page];
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.getElementById("main").focus(); }}>Skip to the page</a>
    <${Header} page=${page} />
    ${away && html`<p class="banner" role="status"><span class="dots" aria-hidden="true"></span>The server is away. Nothing is lost; this page goes on when it is back.</p>`}
    <main id="main" tabindex="-1">
      ${keyNeeded ? html`<${SignIn} />` : View ? html`<${View} />`
        : page === "clip" ? html`<${Clip} id=${words[0]} key=${words[0]} />`
        : page === "compare" ? html`<${Compare} ids=${words.slice(0, 2)} />`
        : html`<section class="page"><div class="empty"><p>There is no such page.</p><a class="button" href="#/make">Make</a></div></section>`}
    </main>
    <${Notices} />`;
}

function Header({ page }) {
  const waiting = useStore((state) => [...state.jobs.values()].filter((job) => !isOver(job)).length);
  return html`<header class="top">
    <a class="brand" href="#/make" aria-label="Soundstage"><svg viewBox="0 0 24 16" aria-hidden="true"><path d="M2 10V6M7 14V2M12 11V5M17 13V3M22 9V7" /></svg><span>Soundstage</span></a>
    <nav class="pages" aria-label="Pages">${PAGES.map(([name, label]) => html`<a key=${name} href=${`#/${name}`} aria-current=${name === page || (name === "gallery" && ["clip", "compare"].includes(page)) ? "page" : undefined}>
      <${Icon} name=${name} /><span>${label}</span>${name === "queue" && waiting > 0 && html`<b class="count" aria-label=${`${waiting} under way`}>${waiting}</b>`}</a>`)}</nav>
    <${ThemeButton} /><${SignOut} />
  </header>`;
}

function ThemeButton() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "auto");
  const turn = () => {
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(next);
    if (next === "auto") { delete document.documentElement.dataset.theme; localStorage.removeItem("soundstage.theme"); return; }
    document.documentElement.dataset.theme = next;
    localStorage.setItem("soundstage.theme", next);
  };
  const word = { auto: "as the system has it", light: "light", dark: "dark" }[theme];
  return html`<button type="button" class="icon theme" aria-label=${`Theme: ${word}. Change`} title=${`Theme: ${word}`} onClick=${turn}><${Icon} name=${THEME_ICONS[theme]} /></button>`;
}

function SignOut() {
  const me = useStore((state) => state.me);
  if (!me || !key.get()) return null;
  return html`<button type="button" class="link sign-out" title=${`Signed in as ${me.name}`} onClick=${() => { key.clear(); location.reload(); }}>Sign out</button>`;
}

function SignIn() {
  const [word, setWord] = useState("");
  const tried = useStore((state) => state.keyTried);
  const send = async (event) => {
    event.preventDefault();
    key.set(word.trim());
    change({ keyNeeded: false, keyTried: true });
    await connect();
  };
  return html`<form class="sign-in" onSubmit=${send}><h1>This server needs a key</h1>
    <p class="help">One is made with <code>soundstage keys new</code>. It is kept in this tab until it is closed.</p>
    <label for="key">Key</label>
    <input id="key" type="password" autocomplete="current-password" required value=${word} onInput=${(event) => setWord(event.target.value)} aria-invalid=${tried ? "true" : undefined} />
    ${tried && html`<p class="problem" role="alert">That key is not known here.</p>`}
    <button type="submit" class="button primary">Sign in</button>
  </form>`;
}

function Notices() {
  const notices = useStore((state) => state.notices);
  return html`<div class="notices" role="status" aria-live="polite">${notices.map(({ id, text, kind, action }) => html`<div key=${id} class=${`notice ${kind}`}>
    <p>${text}</p>
    ${action && html`<button type="button" class="link" onClick=${() => { action.run(); dismiss(id); }}>${action.label}</button>`}
    <button type="button" class="icon" aria-label="Dismiss" onClick=${() => dismiss(id)}><${Icon} name="close" /></button></div>`)}</div>`;
}

const place = document.getElementById("app");
place.replaceChildren();
render(html`<${App} />`, place);
connect();
