// A bundle's Core ML towers on iOS and macOS. Add the bundle's files to the target's resources; Xcode
// compiles the .mlpackage folders. words.py says how a text becomes token ids: port it, or use
// labels.json with labels.f32, whose vectors are made already.

import CoreGraphics
import CoreML
import Foundation

struct Clip {
    struct Feeding: Decodable { let image_size: Int; let mean: [Float]; let std: [Float] }
    struct Labels: Decodable { let labels: [String]; let shape: [Int] }

    let image: MLModel, words: MLModel, feeding: Feeding, facts: [String: Any]

    init(bundle: Bundle = .main) throws {
        func data(_ name: String, _ kind: String) throws -> Data {
            try Data(contentsOf: bundle.url(forResource: name, withExtension: kind)!)
        }
        facts = try JSONSerialization.jsonObject(with: data("metadata", "json")) as! [String: Any]
        feeding = try JSONDecoder().decode(Feeding.self, from: data("preprocessing", "json"))
        let towers = facts["towers"] as! [String: [String: Any]]
        func open(_ tower: String) throws -> MLModel {
            let file = URL(fileURLWithPath: towers[tower]!["file"] as! String)
            let name = file.deletingPathExtension().lastPathComponent
            return try MLModel(contentsOf: bundle.url(forResource: name, withExtension: "mlmodelc")!)
        }
        image = try open("image")
        words = try open("text")
    }

    func embed(_ picture: CGImage) throws -> [Float] {
        // CoreGraphics' filter is close to, not equal to, the one the student was trained with:
        // resize.js of the ONNX bundle has that one in 40 lines. Shortest side to `size`, then the centre.
        let size = feeding.image_size
        var bytes = [UInt8](repeating: 0, count: 4 * size * size)
        let canvas = CGContext(
            data: &bytes, width: size, height: size, bitsPerComponent: 8, bytesPerRow: 4 * size,
            space: CGColorSpaceCreateDeviceRGB(), bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue)!
        canvas.interpolationQuality = .high
        let shrink = CGFloat(size) / CGFloat(min(picture.width, picture.height))
        let width = shrink * CGFloat(picture.width), height = shrink * CGFloat(picture.height)
        let left = (CGFloat(size) - width) / 2, top = (CGFloat(size) - height) / 2
        canvas.draw(picture, in: CGRect(x: left, y: top, width: width, height: height))
        // A tower with its preprocessing inside takes the picture itself.
        if let constraint = image.modelDescription.inputDescriptionsByName.first!.value.imageConstraint {
            return try run(image, MLFeatureValue(cgImage: canvas.makeImage()!, constraint: constraint))
        }
        let side = NSNumber(value: size)
        let pixels = try MLMultiArray(shape: [1, 3, side, side], dataType: .float32)
        for channel in 0..<3 {
            let mean = 255 * feeding.mean[channel], std = 255 * feeding.std[channel]
            for i in 0..<(size * size) {
                pixels[channel * size * size + i] =
                    NSNumber(value: (Float(bytes[4 * i + channel]) - mean) / std)
            }
        }
        return try run(image, MLFeatureValue(multiArray: pixels))
    }

    func embed(tokens: [Int32]) throws -> [Float] {
        let ids = try MLMultiArray(shape: [1, NSNumber(value: tokens.count)], dataType: .int32)
        for (i, id) in tokens.enumerated() { ids[i] = NSNumber(value: id) }
        return try run(words, MLFeatureValue(multiArray: ids))
    }

    /// Probabilities over all texts; of a "sigmoid" student take 1 / (1 + exp(-(logit + bias))).
    func scores(_ picture: [Float], _ texts: [[Float]]) -> [Double] {
        let scale = facts["logit_scale"] as! Double
        let logits = texts.map { text in scale * Double(zip(text, picture).reduce(0) { $0 + $1.0 * $1.1 }) }
        let shares = logits.map { exp($0 - logits.max()!) }
        return shares.map { $0 / shares.reduce(0, +) }
    }

    private func run(_ model: MLModel, _ input: MLFeatureValue) throws -> [Float] {
        let given = model.modelDescription.inputDescriptionsByName.keys.first!
        let made = model.modelDescription.outputDescriptionsByName.keys.first!
        let provider = try MLDictionaryFeatureProvider(dictionary: [given: input])
        let row = try model.prediction(from: provider).featureValue(for: made)!.multiArrayValue!
        return (0..<row.count).map { row[$0].floatValue }
    }
}
