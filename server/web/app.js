// The page: what its parts say to each other.

import { Alternatives } from "./alternatives.js";
import { events, get, post, readKey, Refusal, send } from "./api.js";
import { Classify } from "./classify.js";
import { Controls } from "./controls.js";
import { Editor } from "./editor.js";
import { showFacts, SlotWatch, Stopwatch } from "./figures.js";
import { KeyDialog, Notice } from "./notice.js";
import { Sample } from "./sample.js";
import { Samples } from "./samples.js";
import { curl, python } from "./snippet.js";
import { startTabs, startTheme } from "./theme.js";

const NUM_ALTERNATIVES = 8;
const byId = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.model = null;
    this.needsKey = false;
    this.abort = null; // of the request that runs
    this.last = null; // {text, body}: what Replay sends again, and after which text
    this.notice = new Notice();
    this.keys = new KeyDialog(() => this.load());
    this.controls = new Controls(() => this.showCode());
    this.editor = new Editor(() => this.showCode());
    this.alternatives = new Alternatives((mark, label) => this.branch(mark, label));
    this.samples = new Samples(this.alternatives, (sample) => this.keep(sample));
    this.classify = new Classify((error, retry) => this.fail(error, retry));
    this.slots = new SlotWatch();
    this.language = "curl";
  }

  start() {
    startTheme();
    startTabs();
    byId("run").addEventListener("click", () => this.run());
    byId("stop").addEventListener("click", () => this.abort?.abort());
    byId("replay").addEventListener("click", () => this.replay());
    for (const language of ["curl", "python"]) {
      byId(`as-${language}`).addEventListener("click", () => this.setLanguage(language));
    }
    byId("copy").addEventListener("click", () => this.copy());
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.watchPointer();
    if (window.matchMedia("(max-width: 860px)").matches) byId("settings").open = false;
    this.load();
  }

  /** Ask what is served; again when there is another key. */
  async load() {
    try {
      const [models, version, described] = await Promise.all([
        get("v1/models"), get("version"), get("openapi.json"),
      ]);
      [this.model] = models.data;
      const body = described.paths["/v1/completions"].post.requestBody.content["application/json"];
      this.controls.fit(Object.keys(body.schema.properties), this.model.max_model_len);
      this.classify.setTasks(models.data.filter((one) => one.task));
      byId("served").textContent = this.model.id;
      showFacts(this.model, version.version);
      this.slots.show(this.model);
      this.slots.again();
      this.notice.clear();
      if (!this.model.has_vocabulary) this.fail(new Refusal(400, "This checkpoint has no vocabulary: it takes token ids only, through the API."));
      this.showCode();
    } catch (error) {
      this.fail(error, () => this.load());
    }
  }

  fail(error, retry = null) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 401) {
      this.needsKey = true;
      this.keys.ask(`${error.message[0].toUpperCase()}${error.message.slice(1)}.`);
    }
    this.notice.show(error, retry);
  }

  /** Go on from the end of the text. Ids say exactly what is there; typed text is encoded anew. */
  run() {
    const ids = this.editor.exactIds();
    return this.generate({ prompt: ids || this.editor.text, ...this.controls.fields() });
  }

  /** The last request once more, with the seed that it had: the same text comes. */
  replay() {
    if (this.abort || !this.last) return null;
    const { text, body } = this.last;
    if (this.editor.text.startsWith(text)) this.editor.replaceFrom(text.length, "");
    else this.editor.replaceFrom(0, text);
    return this.generate(body);
  }

  async generate(body) {
    const problem = this.controls.problem();
    if (problem) this.notice.show(new Refusal(400, problem));
    if (problem || this.abort || !this.model?.has_vocabulary) return null;
    this.setRunning(new AbortController());
    const text = this.editor.text;
    const samples = Array.from({ length: body.n || 1 }, (_, index) => new Sample(index));
    const isAlone = samples.length === 1;
    if (isAlone) this.samples.clear();
    else this.samples.begin(samples);
    try {
      await this.stream(body, samples, isAlone);
    } catch (error) {
      this.fail(error, samples[0].seed === null ? () => this.generate(body) : null);
    }
    if (isAlone) this.editor.settle();
    else this.samples.settle();
    if (samples[0].seed !== null) this.last = { text, body: { ...body, seed: samples[0].seed } };
    this.setRunning(null);
    this.showCode();
    return null;
  }

  async stream(body, samples, isAlone) {
    const watch = new Stopwatch();
    const asked = { ...body, stream: true, logprobs: NUM_ALTERNATIVES, return_token_ids: true };
    try {
      const answer = await send("v1/completions", asked, this.abort.signal);
      for await (const event of events(answer)) {
        for (const choice of event.choices) {
          const sample = samples[choice.index];
          sample.absorb(choice);
          watch.tick((choice.token_ids || []).length);
          if (isAlone) this.editor.grow(sample);
          else this.samples.grow(sample);
        }
      }
    } finally {
      watch.end(samples, this.model.max_model_len);
    }
  }

  setRunning(abort) {
    this.abort = abort;
    this.alternatives.close();
    if (abort) this.notice.clear();
    byId("run").disabled = abort !== null;
    byId("stop").disabled = abort === null;
    byId("replay").disabled = abort !== null || !this.last;
    byId("said").textContent = abort ? "Generating." : "Done.";
    document.body.classList.toggle("running", abort !== null);
    this.slots.setBusy(abort !== null);
  }

  /** A sample of several becomes part of the text. */
  keep(sample) {
    this.samples.clear();
    this.editor.append(sample);
    this.editor.area.focus();
    this.showCode();
  }

  /** Put `label` where the token of `mark` stands, and go on from there. */
  async branch(mark, label) {
    if (this.abort) return;
    try {
      const { tokens, pieces } = await post("tokenize", { prompt: label });
      if (tokens.length !== 1 || pieces[0] !== label) {
        throw new Refusal(400, "This alternative is no text: it cannot be put there.");
      }
      if (this.abort) return; // something else was begun meanwhile
      const picked = new Sample(0).branched(mark.sample, mark.position, tokens[0], label);
      this.samples.clear();
      this.editor.append(picked, this.editor.startOf(mark));
      const fields = { ...this.controls.fields(), n: 1 };
      await this.generate({ prompt: picked.idsBefore(picked.ids.length), ...fields });
    } catch (error) {
      this.fail(error);
    }
  }

  watchPointer() {
    const { area } = this.editor;
    area.addEventListener("pointermove", (event) => {
      if (event.buttons || this.abort) return;
      this.alternatives.hover(this.editor.spanAt(event.clientX, event.clientY));
    });
    area.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.alternatives.hover(null);
    });
    area.addEventListener("pointerup", (event) => {
      const span = event.pointerType === "touch" && this.editor.spanAt(event.clientX, event.clientY);
      if (span && !this.abort) this.alternatives.open(span);
    });
  }

  onKey(event) {
    if (this.keys.dialog.open) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (byId("write").hidden) this.classify.run();
      else this.run();
    } else if (event.key === "Escape") {
      this.alternatives.close();
      this.abort?.abort();
    } else if (event.key === "ArrowDown" && event.altKey && event.target === this.editor.area) {
      event.preventDefault();
      const span = this.abort ? null : this.editor.spanAtCaret();
      if (span) this.alternatives.openWithFocus(span);
    }
  }

  setLanguage(language) {
    this.language = language;
    for (const one of ["curl", "python"]) {
      byId(`as-${one}`).setAttribute("aria-pressed", String(one === language));
    }
    this.showCode();
  }

  showCode() {
    if (!this.model) return;
    const body = { prompt: this.editor.text, ...this.controls.fields() };
    const origin = new URL(".", document.baseURI).href.replace(/\/$/, "");
    const hasKey = this.needsKey || readKey() !== "";
    byId("snippet").textContent = this.language === "curl"
      ? curl(origin, body, hasKey)
      : python(origin, this.model.id, body, hasKey);
  }

  async copy() {
    const code = byId("snippet");
    try {
      await navigator.clipboard.writeText(code.textContent);
      byId("copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // not a secure origin: selected, for Ctrl+C
      byId("copy").textContent = "Selected";
    }
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 1500);
  }
}

new Page().start();
