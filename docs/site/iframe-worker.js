// The search of the theme runs in a worker, and browsers start none from a file: there it runs in a frame of the page.
// Dashes before a word are those of an option, --split-validation; to the theme they would mean: without this word.
{
  const QUERY = 2 // SearchMessageType of the theme

  const asked = message =>
    message.type === QUERY ? { ...message, data: message.data.replace(/(^|\s)-+(?=\S)/g, "$1") } : message

  class FrameWorker extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      frame.srcdoc = `<script>postMessage = data => frameElement.answer(data)</script><script src="${url}"></script>`
      frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.started = new Promise(resolve => frame.addEventListener("load", () => resolve(frame.contentWindow)))
      document.body.append(frame)
    }
    postMessage(data) {
      this.started.then(worker => worker.dispatchEvent(new MessageEvent("message", { data: asked(data) })))
    }
  }

  class DashedWorker extends Worker {
    postMessage(data) {
      super.postMessage(asked(data))
    }
  }

  window.Worker = location.protocol === "file:" ? FrameWorker : DashedWorker
}
